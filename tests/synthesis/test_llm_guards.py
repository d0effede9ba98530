"""Guards: tables of instructions and answers that must and must not pass, in both languages."""

from __future__ import annotations

from random import Random

import pytest
from fake_models import make_instruction
from llm_config import WORDS

from kaiyuan.synthesis.llm.config import Guards
from kaiyuan.synthesis.llm.guards import Copies, fault_of_answer, fault_of_instruction, language_of, similarity
from kaiyuan.synthesis.llm.seeds import Seed

RULES = Guards()
GOOD = [
    ("en", "How many minutes are there in three and a half days?"),
    ("en", "Write a Python function `text_below(s)` that returns the part of s after its last colon."),
    ("en", "Explain the difference between 'affect' and 'effect' to a pupil of twelve."),
    ("en", "Translate into English: 春眠不觉晓"),
    ("en", "Draw up a plan for a picture book about the sea, with one line for each of eight pages."),
    ("en", "Who wrote the line “春眠不觉晓，处处闻啼鸟，夜来风雨声，花落知多少”?"),
    ("en", "Is the answer to life a number? Argue in 50 words."),
    ("zh", "请解释为什么夏天的白天比冬天的白天长。"),
    ("zh", "用 Python 写一个函数 `merge_sorted(a, b)`，合并两个有序列表并返回新列表。"),
    ("zh", "某图书馆上午借出图书三十五本，下午借出四十八本，一天共借出多少本？"),
    ("zh", "请说明下图书馆藏书分类法的用途，不超过一百字。"),
    ("zh", "下列哪一项是质数？A. 51 B. 53 C. 57 D. 63，请选出正确答案。"),
]
BAD = [
    ("en", "too short", "Explain tides."),
    ("zh", "too short", "讲讲"),
    ("en", "leak of the answer", "What is 6 times 7?\nAnswer: 42"),
    ("en", "leak of the answer", "What is the capital of Peru? The correct answer is Lima, of course."),
    ("zh", "leak of the answer", "秘鲁的首都是哪里？\n答案：利马"),
    ("zh", "leak of the answer", "秘鲁的首都是哪里？正确答案是利马。"),
    ("en", "leak of the prompt", "According to the passage, why did the ship turn back to the harbour?"),
    ("en", "leak of the prompt", 'Here it is: {"instructions": ["Count the ships in the harbour."]}'),
    ("en", "leak of the prompt", "Rewritten instruction: count all the ships in the harbour, please."),
    ("zh", "leak of the prompt", "根据上述文本，说明船为什么返回港口。"),
    ("zh", "leak of the prompt", "改写后的指令：请数一数港口里的船有多少。"),
    ("en", "unanswerable: something is missing", "Describe the mood of the attached image in two sentences."),
    ("en", "unanswerable: something is missing", "What trend is shown in the figure for the last ten years?"),
    ("en", "unanswerable: something is missing", "Summarise the text below in three sentences for a child."),
    ("zh", "unanswerable: something is missing", "如图所示，求三角形的面积是多少。"),
    ("zh", "unanswerable: something is missing", "请概括下面的文字，不超过五十个字。"),
    ("zh", "unanswerable: something is missing", "请告诉我今天的天气适合不适合去爬山。"),
    ("en", "language switched", "请解释为什么夏天的白天比冬天的白天长。"),
    ("zh", "language switched", "Explain why summer days are longer than winter days."),
    ("en", "language switched", "Explain the phrase. 请用中文详细解释这个短语的来源和用法，并举出例子来。"),
]


@pytest.mark.parametrize("language, text", GOOD)
def test_good_instructions_pass(language: str, text: str) -> None:
    assert fault_of_instruction(text, language, RULES, None) == ""


@pytest.mark.parametrize("language, fault, text", BAD)
def test_bad_instructions_are_named(language: str, fault: str, text: str) -> None:
    assert fault_of_instruction(text, language, RULES, None) == fault


def test_a_text_below_may_be_spoken_of_if_it_is_there() -> None:
    text = "Summarise the text below in three sentences for a child."
    assert fault_of_instruction(text, "en", RULES, None, context=True) == ""


def test_copies_and_answers_of_the_seed_are_refused() -> None:
    seed = Seed("1", "qa", "en", "Why do ships have round windows below deck while houses have square ones? "
                "Corners gather stress in a hull that bends with every wave.", "corners gather stress")  # fmt: skip
    copied = "Why do ships have round windows below deck while houses have square ones?"
    own = "A hull bends with each wave. What follows for the form of a porthole?"
    assert fault_of_instruction(copied, "en", RULES, seed) == "copy of the seed"
    assert fault_of_instruction(own, "en", RULES, seed) == ""
    assert (
        fault_of_instruction(f"{own} Think of how Corners  gather stress.", "en", RULES, seed) == "leak of the answer"
    )
    chinese = Seed("2", "document", "zh", "船的舷窗做成圆形，是因为方形的角会聚集应力，船体随波浪弯曲时容易开裂。")
    assert (
        fault_of_instruction("船的舷窗做成圆形，是因为方形的角会聚集应力吗？", "zh", RULES, chinese)
        == "copy of the seed"
    )
    assert fault_of_instruction("为什么飞机上的窗户没有直角？请用力学说明。", "zh", RULES, chinese) == ""


@pytest.mark.parametrize("fault, text, finish, language", [
    ("", "It grows because light feeds it.", "stop", "en"),
    ("", "```python\nprint('你好')\n```\nThis prints a greeting.", "stop", "en"),
    ("", "答案：42", "stop", "zh"),
    ("truncated", "It grows because", "length", "en"),
    ("refusal", "", "content_filter", "en"),
    ("refusal", "I'm sorry, but I cannot help with that.", "stop", "en"),
    ("refusal", "很抱歉，我无法回答这个问题。", "stop", "zh"),
    ("language switched", "这是因为光照使它生长，没有光它就不能生长。", "stop", "en"),
    ("language switched", "It grows because light feeds it, and nothing else does.", "stop", "zh"),
    ("repeats itself", "and so on and on " * 60, "stop", "en"),
    ("leak of the prompt", "==== START ==== It grows.", "stop", "en"),
    ("too long", "word " * 400, "stop", "en"),
])  # fmt: skip
def test_answers_are_sound(fault: str, text: str, finish: str, language: str) -> None:
    assert fault_of_answer(text, finish, language, 1500) == fault


def test_a_translation_may_be_in_the_other_language() -> None:
    assert fault_of_answer("春天睡得香，不知不觉天就亮了。", "stop", "en", 1000, translates=True) == ""


def test_languages_are_told_by_script() -> None:
    assert language_of("`printf` 函数 $x+y$ 的用法") == "zh"
    assert language_of("The word 道 is hard to translate into any other tongue.") == "en"
    assert language_of("half of it 一半 and then other words") == "mixed"
    assert language_of("12 + 30 = 42") == "und"


def test_copies_agree_with_exact_similarity() -> None:
    """Every text is compared with all before it, by brute force and by sketches."""
    rng, copies = Random(4), Copies(0.7)
    texts: list[str] = []
    wrong = found = near = 0
    for number in range(300):
        text = make_instruction(rng, "math")
        if texts and rng.random() < 0.4:
            words = rng.choice(texts).split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            text = " ".join(words)
        exact = max((similarity(text, other) for other in texts), default=0.0)
        like = bool(copies.find(text))
        found, near = found + like, near + (exact >= 0.7)
        wrong += like != (exact >= 0.7) and not 0.6 < exact < 0.8
        copies.remember(text, str(number))
        texts.append(text)
    assert near > 60 and abs(found - near) < 0.2 * near
    assert wrong == 0, "sketches may err near the threshold only"


def test_short_copies_are_found_by_their_words_alone() -> None:
    copies = Copies(0.9)
    copies.remember("What is ten plus three?", "a")
    assert copies.find("what is TEN plus three") == "a"
    assert copies.find("What is ten minus three?") == ""
