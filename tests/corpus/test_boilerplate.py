"""Page furniture in two languages: what goes, and above all what stays."""

from __future__ import annotations

import pytest

from kaiyuan.corpus.boilerplate import without_boilerplate
from kaiyuan.corpus.sources import demo_documents

STORY = "The mill by the river burned down last night.\nThe neighbours carried water until morning."
STORY_ZH = "昨夜河边的磨坊失火了。\n邻居们提水救火，一直忙到天亮。"


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ("Home\nNews\nOur Team\nWeather map", "", {"button": 1, "menu": 3}),
        ("", "Share\nTweet\nRead more", {"button": 3}),
        ("", "We use cookies to improve this site. Accept all cookies", {"policy": 1}),
        ("", "© 2024 Mill News. All rights reserved.", {"policy": 1}),
        ("Home > News > Local", "Privacy Policy", {"trail": 1, "policy": 1}),
        ("Please enable JavaScript to see this page.", "Next post", {"policy": 1, "button": 1}),
        ("首页\n新闻\n体育\n天气预报", "", {"button": 1, "menu": 3}),
        ("首页 > 新闻 > 正文", "分享到：微信\n上一篇：天气转凉\n责任编辑：李四", {"trail": 1, "button": 3}),
        ("", "版权所有 未经授权不得转载\n京ICP备12345678号\n本网站使用Cookie政策", {"policy": 3}),
        ("Mill News\n\n", "\n\nMill News\n\nMill News", {"repeated": 2}),
    ],
)
@pytest.mark.parametrize("story", [STORY, STORY_ZH])
def test_furniture_goes_and_the_story_stays(story: str, before: str, after: str, kinds: dict[str, int]) -> None:
    text, found = without_boilerplate(f"{before}\n\n{story}\n\n{after}".strip("\n"))
    assert text.removeprefix("Mill News").strip() == story
    assert found == kinds


@pytest.mark.parametrize(
    "text",
    [
        STORY,
        STORY_ZH,
        "The cat\n\nA cat sat down.\nIt slept.",
        "Roses are red,\nviolets are blue,\nsugar is sweet,\nand so are you.",
        "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。",
        "Ingredients\n\n- flour\n- milk\n- two eggs\n\nMix them well and bake for an hour.",
        "To go home is what the sailor wanted most.\nHe would share his bread with anybody.",
        "他说他想回首页看看，再读一读那篇关于我们的文章。",
        "Red\nGreen\nBlue\nYellow",
    ],
)
def test_text_without_furniture_is_left_alone(text: str) -> None:
    assert without_boilerplate(text) == (text, {})


def test_books_and_poems_lose_next_to_nothing() -> None:
    lost = total = 0
    for document in demo_documents():
        if document.label in ("books", "poetry", "classics"):
            text, _ = without_boilerplate(document.text)
            lost += len(document.text) - len(text)
            total += len(document.text)
    assert lost < 0.001 * total
