"""Page furniture out of web pages, line by line: menus, cookie notices, buttons, footers, repeated headers.

Only short lines are looked at, and only such as are known or clearly no sentence, so that what a page says stays. C4
(Raffel et al. 2020, 2.2) drops lines that mention JavaScript, terms of use or cookies; these are kept in ``POLICY``
with their Chinese counterparts. The rest is our own.
"""

from __future__ import annotations

import re
from collections import Counter

from kaiyuan.corpus.units import units

SHORT = 200
"""Characters of the longest line that can be furniture."""
MENU = 4
"""So many lines of a few words in a row, none of which ends a sentence, are a menu if they begin or end a page."""
MENU_WORDS = 4
REPEATED = 3
"""A short line that occurs so often on a page is a header or a button; its first occurrence stays."""

_POLICY = re.compile(
    r"java\s?script|terms of (?:use|service)|privacy policy|cookie policy|uses? (?:of )?cookies|accept (?:all )?cookies"
    r"|cookie (?:settings|preferences)|all rights reserved|©|\(c\) ?(?:19|20)\d\d"
    r"|隐私(?:政策|条款|权)|隱私|使用条款|服务条款|服務條款|用户协议|免责声明|免責聲明|版权所有|版權所有|未经(?:授权|许可)"
    r"|cookies?(?:政策|设置)|icp备|icp証|icp证|公网安备|违法和不良信息举报|举报电话"
)
_BUTTON = re.compile(
    r"(?:share(?: (?:this|on .{2,12}))?|tweet|like|print|e-?mail(?: this)?|read more|learn more|more|continue reading"
    r"|sign (?:in|up)|log ?(?:in|out)|register|subscribe(?: now)?|follow us|contact(?: us)?|about(?: us)?|home|menu"
    r"|search|next(?: (?:page|post|article))?|prev(?:ious)?(?: (?:page|post|article))?|back to top"
    r"|skip to (?:main )?content"
    r"|advertisements?|sponsored|related (?:posts|articles|stories)|leave a (?:reply|comment)|add to cart|close|loading"
    r"|分享(?:到|至|给).{0,12}|分享|转发|收藏|点赞|打印(?:本页)?|阅读(?:全文|更多|原文)|查看(?:更多|全部|详情)|更多"
    r"|登录|登錄|登入|注册|註冊|立即(?:注册|购买|下载)|关注(?:我们)?|关于我们|联系我们|首页|首頁|返回(?:首页|顶部|列表)"
    r"|[上下]一[篇页条].{0,40}|相关(?:阅读|文章|新闻|推荐)|热门(?:文章|推荐|标签)|猜你喜欢|发表评论|加入购物车|广告"
    r"|责任编辑.{0,12}|来源[:：].{0,20}|字号.{0,6})"
    r"[\s.…:：>»›]*"
)
_TRAIL = re.compile(r"[^|>»›·/]{1,24}(?:\s*[|>»›·/]\s*[^|>»›·/]{1,24}){2,}")
_SENTENCE_END = re.compile(r"[.!?。！？…:：;；,，”」)）]$")
_FEATURES = re.compile(r"^(?:[-*•·]|\d+[.)、])\s")


def without_boilerplate(text: str) -> tuple[str, Counter[str]]:
    """The text without furniture, and how many lines of each kind are gone: policy, button, trail, menu, repeated."""
    lines = text.split("\n")
    kinds = _kinds(lines)
    if not any(kinds):
        return text, Counter()
    kept = [line for line, kind in zip(lines, kinds, strict=True) if not kind]
    return "\n".join(kept).strip("\n"), Counter(kind for kind in kinds if kind)


def _kinds(lines: list[str]) -> list[str]:
    """What kind of furniture each line is, "" for none."""
    stripped = [line.strip() for line in lines]
    often = {line for line, count in Counter(stripped).items() if count >= REPEATED and 0 < len(line) <= 40}
    seen: set[str] = set()
    kinds = []
    for line in stripped:
        kind = _kind(line)
        if not kind and line in often and not _SENTENCE_END.search(line):
            kind = "repeated" if line in seen else ""
            seen.add(line)
        kinds.append(kind)
    _mark_menus(stripped, kinds)
    return kinds


def _kind(line: str) -> str:
    if not line or len(line) > SHORT:
        return ""
    small = line.lower()
    if _POLICY.search(small):
        return "policy"
    if len(small) <= 60 and _BUTTON.fullmatch(small):
        return "button"
    if _TRAIL.fullmatch(small) and not _SENTENCE_END.search(small):
        return "trail"
    return ""


def _mark_menus(lines: list[str], kinds: list[str]) -> None:
    """The runs of menu-like lines at the beginning and the end of a page; titles and lists in its middle stay."""
    numbers = [number for number, line in enumerate(lines) if line]
    for order in (numbers, numbers[::-1]):
        run = []
        for number in order:
            if not kinds[number] and not _like_a_menu(lines[number]):
                break
            run.append(number)
        if len(run) >= MENU and len(run) < len(numbers):
            for number in run:
                kinds[number] = kinds[number] or "menu"


def _like_a_menu(line: str) -> bool:
    if len(line) > 40 or _SENTENCE_END.search(line) or _FEATURES.match(line):
        return False
    return 0 < len(units(line)) <= (MENU_WORDS if line.isascii() else 2 * MENU_WORDS)
