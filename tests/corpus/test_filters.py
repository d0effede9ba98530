from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from kaiyuan.corpus.filters import QualityRules, read_word_list, rejection
from kaiyuan.corpus.units import han_characters, units
from kaiyuan.errors import DataError

RULES = QualityRules()

PROSE_EN = (
    "The river rises in the hills above the town and runs for thirty miles before it meets the sea. In spring, when "
    "the snow has melted, boats can follow it as far as the mill; in summer there is hardly enough water for ducks. "
    "Nobody remembers who built the bridge, but everybody has a story about the winter in which it nearly fell."
)
PROSE_ZH = (
    "这条河发源于镇子上方的群山，流过三十里之后汇入大海。春天雪化了，船可以一直开到老磨坊；"
    "到了夏天，水浅得连鸭子都浮不起来。没有人记得桥是谁修的，可是人人都能讲出那年冬天它差点塌掉的故事。"
    "孩子们喜欢在桥下捉鱼，老人们则坐在桥头晒太阳。"
)
CODE = """import math


def area(radius: float) -> float:
    \"\"\"Area of a circle.\"\"\"
    if radius < 0:
        raise ValueError(f"radius {radius} is negative")
    return math.pi * radius**2


def perimeter(radius: float) -> float:
    return 2 * math.pi * radius
"""
PLAY = (
    "HAMLET.", "Whither wilt thou lead me? Speak, I'll go no further.", "GHOST.", "Mark me.", "HAMLET.", "I will.",
    "GHOST.", "My hour is almost come, when I to sulph'rous and tormenting flames must render up myself.",
    "HAMLET.", "Alas, poor ghost!", "GHOST.", "Pity me not, but lend thy serious hearing to what I shall unfold.",
    "HAMLET.", "Speak; I am bound to hear.", "GHOST.", "So art thou to revenge, when thou shalt hear.",
)  # fmt: skip
TWO_STROPHES = (
    "坎坎伐檀兮，置之河之干兮。河水清且涟猗。", "不稼不穑，胡取禾三百廛兮？", "不狩不猎，胡瞻尔庭有县貆兮？",
    "彼君子兮，不素餐兮！", "坎坎伐辐兮，置之河之侧兮。河水清且直猗。", "不稼不穑，胡取禾三百亿兮？",
    "不狩不猎，胡瞻尔庭有县特兮？", "彼君子兮，不素食兮！",
)  # fmt: skip
PLANTAINS = ("采", "有", "掇", "捋", "袺", "襭")
AULD_LANG_SYNE = """Should auld acquaintance be forgot,
And never brought to mind?
Should auld acquaintance be forgot,
And auld lang syne!

For auld lang syne, my dear,
For auld lang syne,
We'll tak a cup o' kindness yet,
For auld lang syne.

And surely ye'll be your pint stowp!
And surely I'll be mine!
And we'll tak a cup o' kindness yet,
For auld lang syne.

For auld lang syne, my dear,
For auld lang syne,
We'll tak a cup o' kindness yet,
For auld lang syne."""
GOOD = {
    "English prose": ("en", PROSE_EN),
    "Chinese prose": ("zh", PROSE_ZH),
    "Tang poem": ("zh", "静夜思\n\n床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。"),
    "shortest Tang poem": ("zh", "春眠不觉晓，\n处处闻啼鸟。\n夜来风雨声，\n花落知多少。"),
    "two strophes": ("zh", "\n".join(TWO_STROPHES)),
    "six lines but for one word": ("zh", "\n".join(f"采采芣苢，薄言{word}之。" for word in PLANTAINS)),
    "song with a refrain": ("en", AULD_LANG_SYNE),
    "play": ("en", "\n".join(PLAY)),
    "numbered verses": ("zh", "3:16 神爱世人，甚至将他的独生子赐给他们。\n"
                              "3:17 因为神差他的儿子降世，不是要定世人的罪。"),
    "code": ("code", CODE),
    "French, without stop words": ("fr", "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie "
                                   "éteinte, mes yeux se fermaient si vite que je n'avais pas le temps de me dire."),
}  # fmt: skip

RED_HOUSES = [
    a + b
    for a in ("red", "blue", "green", "gold", "black", "white", "pink", "grey", "tan", "teal")
    for b in ("house", "boat", "horse", "stone", "field", "cloud", "glass", "paper", "river", "plate")
]
LONG_WORDS = [stem + "ification" * 2 for stem in ("class", "ident", "person", "exempl", "cod", "dign", "ampl")]
GOODS = ("手机", "电脑", "衣服", "鞋子", "食品", "家具", "书本", "机票", "酒店", "汽车")
URL = "https://example.com/rivers/of/the/world/and/their/bridges/index"
BAD = {
    "too short": ("en", "Just a few words."),
    "too short ": ("zh", "你好，世界。"),
    "garbled": ("zh", PROSE_ZH + "锟斤拷锟斤拷"),
    "garbled ": ("en", PROSE_EN + "\ufffd\ufffd\ufffd"),
    "few letters": ("en", "\n".join(f"row {i}: 1{i} 22.{i} 333.{i} 44{i} | 55{i}" for i in range(40))),
    "symbols": ("en", PROSE_EN + " #river #hills #town #sea #mill #snow #ducks #bridge" * 2),
    "symbols ": ("zh", PROSE_ZH + "★☆★☆◆◇" * 4),
    "word length": ("en", " ".join(LONG_WORDS * 3)),
    "word length ": ("en", "a b c d e f g h i j k l m n o p q r s t u v w x y z to be or a x y"),
    "no running text": ("en", " ".join(RED_HOUSES)),
    "no running text ": ("zh", "".join(chr(0x5000 + 7 * i) for i in range(120))),
    "bullets": ("en", "\n".join(f"- {line}" for line in PROSE_EN.split(". "))),
    "ellipses": ("en", "Read how the river came to be...\nSee what the mill is hiding from us…\n"
                       "Find out who built the old bridge...\nThe end of it all was here in winter"),
    "URLs": ("en", f"See the pages on rivers at {URL} and at {URL} for more of the rivers, the mills and the ducks "
                   "that live there, as far as we know."),
    "boilerplate": ("en", "Please enable JavaScript to use the map of the river that we have for you on this site, it "
                          "is worth the trouble."),
    "boilerplate ": ("zh", "欢迎来到本站，请扫码关注我们的公众号，就可以免费阅读全部的小说章节内容，祝您阅读愉快。"),
    "repeated lines": ("en", PROSE_EN + "\nAll rights belong to their owners and to nobody else in the world." * 5),
    "repeated lines ": ("zh", PROSE_ZH + "\n本网站的所有内容均来自网络，如有侵权请联系我们及时删除。" * 5),
    "one 2-gram": ("en", "Here is what they say: " + " ".join(f"buy now and have {word}," for word in RED_HOUSES[:30])),
    "one 2-gram ": ("zh", "我的店里有：" + "".join(f"便宜{first}{second}" for first in GOODS for second in GOODS[:3])),
    "repeated 5-grams": ("zh", "".join(f"想了解{goods}的最新价格和优惠信息请马上联系我们的客服，" for goods in GOODS)),
}  # fmt: skip
BAD_CODE = {
    "generated code": "# Generated by the protocol buffer compiler.  DO NOT EDIT!\n" + CODE,
    "long code lines": CODE + "\nTABLE = '" + "abcdefgh" * 200 + "'\n",
    "long code lines ": "\n".join(f"value_{i} = '{'long text ' * 12}{i}'" for i in range(30)),
    "data, not code": "POINTS = [\n" + "\n".join(f"    ({i}.25, {i * 7}.5, {i * i}.125)," for i in range(100)) + "\n]",
    "repeated lines": CODE + "\n    print('one more time, with feeling')" * 60,
    "too short": "x = 1\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_text_passes(name: str) -> None:
    language, text = GOOD[name]
    assert rejection(text, language, RULES) is None


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_rejected_for_the_right_reason(name: str) -> None:
    language, text = BAD[name]
    reason = rejection(text, language, RULES)
    assert reason is not None
    assert reason.split(":")[0] == name.strip()


@pytest.mark.parametrize("name", BAD_CODE)
def test_bad_code(name: str) -> None:
    reason = rejection(BAD_CODE[name], "code", RULES)
    assert reason is not None
    assert reason.split(":")[0] == name.strip()


@pytest.mark.parametrize(
    ("name", "relaxed"),
    [
        ("too short", {"min_units": 0}), ("garbled", {"max_garbage_share": 1.0}),
        ("symbols", {"max_symbol_share": 9.0}),
        ("few letters", {"min_letter_share": 0.0}), ("bullets", {"max_bullet_share": 1.0}),
        ("ellipses", {"max_ellipsis_share": 1.0}), ("no running text", {"min_stop_words": 0}),
        ("word length", {"max_mean_word_length": 99.0}), ("URLs", {"max_url_share": 1.0}),
        ("boilerplate", {"max_boilerplate_per_1000": 1e6}), ("repeated lines", {"max_repeated_line_share": 1.0}),
        ("one 2-gram", {"max_top_ngram_share": 1.0}), ("repeated 5-grams", {"max_repeated_ngram_share": 1.0}),
    ],
)  # fmt: skip
def test_each_limit_is_the_one_that_rejects(name: str, relaxed: dict[str, float]) -> None:
    language, text = BAD[name]
    reason = rejection(text, language, QualityRules(**relaxed))
    assert reason is None or reason.split(":")[0] != name


def test_a_text_on_the_limit_passes() -> None:
    text = " ".join(["river", "mill", "the", "bridge", "of"] * 4)
    rules = QualityRules(max_top_ngram_share=1.0, max_repeated_ngram_share=1.0)
    assert len(units(text)) == rules.min_units
    assert rejection(text, "en", rules) is None
    assert str(rejection(text[: -len(" of")], "en", rules)).startswith("too short: 19 units")


def test_toxic_words_are_off_until_there_is_a_list(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# our list\nscum\n\n混蛋\n", encoding="utf-8")
    words = read_word_list(path)
    assert words == ["scum", "混蛋"]
    insults = PROSE_EN + " You SCUM, scum, scum!", PROSE_ZH + "你这个混蛋！混蛋！"
    for language, text in zip(("en", "zh"), insults, strict=True):
        assert rejection(text, language, RULES) is None
        assert str(rejection(text, language, QualityRules(toxic_words=words))).startswith("toxic words: ")
    # A word inside another is not meant, and one in a book is no reason.
    assert rejection(PROSE_EN + " Scumbling, scumbled, scumbles.", "en", QualityRules(toxic_words=words)) is None
    book = QualityRules(toxic_words=words, max_repeated_ngram_share=1.0)
    assert rejection(PROSE_EN * 3 + " scum", "en", book) is None


def test_word_list_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt: not a readable word list"):
        read_word_list(tmp_path / "absent.txt")
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="latin: not a readable word list"):
        read_word_list(tmp_path / "latin")


def test_settings_are_strict() -> None:
    with pytest.raises(ValidationError, match="max_simbols"):
        QualityRules(max_simbols=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="min_units"):
        QualityRules(min_units="20")  # type: ignore[arg-type]


def test_units() -> None:
    assert units("Don't 说 GPT-4 好, naïve café！10%") == ["Don't", "说", "GPT", "4", "好", "naïve", "café", "10"]
    assert units("々〇𠮷かなカナ") == ["々", "〇", "𠮷", "か", "な", "カ", "ナ"]
    assert units("，。！ \n") == []
    assert han_characters("我有2个apple。") == 3
