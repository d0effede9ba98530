"""A small labelled set without any network: the demo corpus, and the same text spoilt in known ways.

The labels follow from where a text comes from (an almanac teaches, a novel does not) or from what was done to it
(shuffled, buried in menus, made an advertisement, sworn over). A model trained on them tells these sources and these
spoilings apart, and no more: docs/scores.md says what that is worth. Labels of a judge are what a corpus needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from kaiyuan.corpus.scores.labels import Labelled
from kaiyuan.corpus.scores.toxicity import word_list
from kaiyuan.corpus.sources.demo import demo_documents
from kaiyuan.corpus.units import units

_CATEGORY = {
    "austen-novels": ("literature/fiction", 2), "austen-chapters": ("literature/fiction", 2),
    "world-factbook": ("reference/geography", 5), "chinese-bible": ("religion/scripture", 1),
    "chinese-prose": ("literature/classics", 4), "chinese-poetry": ("literature/poetry", 1),
    "python-boltons": ("technology/programming", 4),
}  # fmt: skip
"""Category and educational grade of each source."""
_MENUS = {
    "en": ("Home", "Log in", "Sign up", "Cart (0)", "Share on social media", "Subscribe to our newsletter", "Next page",
           "Accept all cookies", "Read more", "Contact us", "Terms of use", "Back to top", "Related posts", "Search"),
    "zh": ("首页", "登录", "注册", "购物车", "分享到朋友圈", "订阅我们的邮件", "下一页", "接受全部饼干",
           "阅读全文", "联系我们", "使用条款", "返回顶部", "相关文章", "搜索", "扫码关注"),
}  # fmt: skip
_OFFERS = {
    "en": ("Buy {} now, {}% off today only!", "Best cheap {} online, free shipping, order now, only ${}.",
           "Click here to win a free {}, {} winners every day!!!", "Lose {1} pounds in a week with our amazing {0}!",
           "Limited offer: {} from ${}, do not miss this deal!"),
    "zh": ("限时抢购{}，全场{}折，仅限今天！", "正品{}低价批发，包邮，仅售{}元，欢迎下单！",
           "点击领取免费{}，每天{}人中奖！！！", "加微信送{}，名额只剩{}个！", "用了我们的{}，一周轻松瘦{}斤！"),
}  # fmt: skip
_THINGS = {
    "en": ("watches", "pills", "handbags", "casino chips", "loans", "sneakers", "phones", "miracle cream"),
    "zh": ("手表", "减肥茶", "名牌包", "彩票", "贷款", "运动鞋", "手机", "面霜"),
}
_LENGTH = 1200
_SHORTEST = 150


def demo_labels(seed: int = 0, most: int = 400) -> list[Labelled]:
    """At most ``most`` pieces of each source, and half as many spoilt ones of prose and verse."""
    rng = Random(f"scores {seed}")
    pieces: dict[str, list[tuple[str, str]]] = {}
    for document in demo_documents():
        pieces.setdefault(document.source, []).extend((piece, document.language) for piece in _pieces(document.text))
    rows: list[Labelled] = []
    for source, found in sorted(pieces.items()):
        rng.shuffle(found)
        category, educational = _CATEGORY[source]
        for text, language in found[:most]:
            grades = {"quality": 5, "educational": educational, "toxicity": 0}
            rows.append(Labelled(text, language, grades, category))
            if language != "code":
                rows += _spoilt(text, language, category, rng)
    return rows


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs together up to about 1,200 characters."""
    held = ""
    for paragraph in text.split("\n\n"):
        if held and len(held) + len(paragraph) > _LENGTH:
            yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph[: 2 * _LENGTH]
    if len(held) >= _SHORTEST:
        yield held


def _spoilt(text: str, language: str, category: str, rng: Random) -> Iterator[Labelled]:
    """One in two texts once more, spoilt; an advertisement shares no more than its length with the text."""
    kind = rng.choice(("none", "none", "none", "none", "shuffled", "menus", "spam", "toxic"))
    grades = {"quality": 0, "educational": 0, "toxicity": 0}
    if kind == "shuffled":
        words = units(text)
        rng.shuffle(words)
        yield Labelled(("" if language == "zh" else " ").join(words), language, grades)
    elif kind == "menus":
        lines = [rng.choice(_MENUS[language]) for _ in range(rng.randint(15, 50))]
        lines.insert(rng.randrange(len(lines)), text[: rng.randint(40, 200)])
        yield Labelled("\n".join(lines), language, grades, "other/boilerplate")
    elif kind == "spam":
        count = max(3, len(text) // (60 if language == "en" else 30))
        lines = [
            rng.choice(_OFFERS[language]).format(rng.choice(_THINGS[language]), rng.randint(2, 99))
            for _ in range(count)
        ]
        yield Labelled("\n".join(lines), language, grades, "commerce/advertising")
    elif kind == "toxic":
        yield Labelled(_sworn_over(text, language, rng), language, {"quality": 1, "educational": 0, "toxicity": 5})


def _sworn_over(text: str, language: str, rng: Random) -> str:
    """Listed words between the sentences of half of the text."""
    stop = "。" if language == "zh" else ". "
    sentences = text[: len(text) // 2].split(stop)
    words = word_list(language)
    comma = "，" if language == "zh" else ", "
    return stop.join(part for sentence in sentences for part in (sentence, comma.join(rng.choices(words, k=2))))
