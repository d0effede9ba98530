from __future__ import annotations

import socket

import pytest

from kaiyuan.corpus.language import detect

ENGLISH = "It is a truth universally acknowledged, that a single man in possession of a good fortune must want a wife."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (ENGLISH.upper(), "en"),
        ("The cat sat on the mat.", "en"),
        ("Hi there!", "en"),
        ("Yes.", "en"),
        ("See https://example.com/zh/页面 for the whole list of rules.", "en"),
        ("你好", "zh"),
        ("春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。", "zh"),  # the model alone says Japanese
        ("臺灣的天氣很好，我們去散步吧。", "zh"),
        ("关关雎鸠，在河之洲。窈窕淑女，君子好逑。", "zh"),
        ("我们用 Python 和 PyTorch 训练一个 Transformer 模型。", "zh"),
        ("Kyoto 京都 Osaka 大阪 Nara 奈良 Kobe 神戸 Tokyo are cities in Japan", "en"),  # the model alone: Japanese
        ("他写下“さよなら”，就离开了那座城市，再也没有人见过他。我们一直等着消息，可是一年又一年过去了。", "zh"),
        ("これは日本語の文章です。猫が好きです。", "ja"),
        ("안녕하세요, 오늘 날씨가 좋네요.", "ko"),
        ("Bonjour tout le monde, je suis très content de vous voir ici.", "fr"),
        ("Ich weiß nicht, was soll es bedeuten, dass ich so traurig bin.", "de"),
        ("Съешь ещё этих мягких французских булок, да выпей чаю.", "ru"),
        ("12345 67890 !!!", "und"),
        ("", "und"),
        ("\n\n  ", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    found, confidence = detect(text)
    assert found == language
    assert 0.0 <= confidence <= 1.0


def test_confidence_tells_clear_from_doubtful() -> None:
    assert detect(ENGLISH)[1] > 0.8
    assert detect("天地玄黄，宇宙洪荒。")[1] == 1.0
    assert detect("x y")[1] < 0.65
    assert detect("12345")[1] == 0.0


def test_long_text_is_judged_by_more_than_its_beginning() -> None:
    licence = "This text is free to use for everyone everywhere. " * 10
    chinese = "滚滚长江东逝水，浪花淘尽英雄。是非成败转头空，青山依旧在，几度夕阳红。" * 200
    assert detect(licence + chinese)[0] == "zh"


def test_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from kaiyuan.corpus import language

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the detector tried to open a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    language._detector.cache_clear()
    assert detect(ENGLISH)[0] == "en"
