from __future__ import annotations

import hashlib
import re
from collections import Counter
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kaiyuan.corpus.sources import demo_documents, document_id
from kaiyuan.errors import ConfigError, DataError
from kaiyuan.synthesis import facts
from kaiyuan.synthesis.phrasings import QUESTIONS, STATEMENTS
from kaiyuan.synthesis.problems import (
    KINDS,
    KNOWLEDGE,
    RULES,
    Problem,
    generate_problems,
    is_held_out,
    recall_document,
    solve,
    statement_documents,
    verify,
)

PROBLEMS = generate_problems(12_000, seed=1)
BY_PROMPT = {problem.prompt: problem for problem in PROBLEMS}
problems = st.sampled_from(PROBLEMS)


def test_every_answer_is_confirmed_by_the_second_opinion():
    wrong = [(problem, solve(problem.prompt)) for problem in PROBLEMS if solve(problem.prompt) != problem.answer]
    assert wrong == []


def test_the_sample_has_every_kind_operation_and_phrasing():
    wanted = {(kind, language) for kind in KINDS for language in ("en", "zh")}
    assert {(problem.kind, problem.language) for problem in PROBLEMS} == wanted
    patterns = {
        template: re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(template)))
        for languages in QUESTIONS.values()
        for templates in languages.values()
        for template in templates
    }
    unused = [t for t, pattern in patterns.items() if not any(pattern.fullmatch(prompt) for prompt in BY_PROMPT)]
    assert unused == []


def test_solve_does_not_answer_what_it_does_not_understand():
    for prompt in ("", "Who wrote Hamlet?", "What is the capital of Atlantis?", "今天天气怎么样？"):
        assert solve(prompt) is None


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is 17 + 25?", "42"),
        ("Subtract 17 from 42.", "25"),
        ("12 × 12 = ?", "144"),
        ("Which number is the larger: 9 or 10?", "10"),
        ("从小到大排序：76、9、72。", "9、72、76"),
        ("Counting up, what comes before 1000?", "999"),
        ("十二月的下一个月是几月？", "一月"),
        ("下月是一月，这个月是几月？", "十二月"),
        ("If today is Sunday, what day is tomorrow?", "Monday"),
        ("明天是星期一，今天是星期几？", "星期日"),
        ("Reverse the letters: c a t s.", "s t a c"),
        ("巴西利亚是哪个国家的首都？", "巴西"),
        ("What element does the symbol I stand for?", "iodine"),
    ],
)
def test_solve_on_problems_with_known_answers(prompt: str, answer: str):
    assert solve(prompt) == answer


def test_generation_is_pinned():
    """The same problems on every Python version and machine: a changed hash here changes everyone's held-out split."""
    text = "\n".join(repr(problem) for problem in generate_problems(500, seed=7))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "26b5c8b65f3d8871"


def test_a_smaller_count_is_the_beginning_and_a_seed_matters():
    assert generate_problems(100, seed=1) == PROBLEMS[:100]
    assert generate_problems(100, seed=2) != PROBLEMS[:100]


def test_no_problem_comes_twice():
    assert len({(problem.key, problem.prompt) for problem in PROBLEMS}) == len(PROBLEMS)


def test_kinds_and_languages_can_be_chosen():
    chosen = generate_problems(200, seed=0, kinds=["parity", "capital"], languages=["zh"])
    assert {problem.kind for problem in chosen} == {"parity", "capital"}
    assert {problem.language for problem in chosen} == {"zh"}
    assert all(re.search("[\u4e00-\u9fff]", problem.prompt) for problem in chosen)
    with pytest.raises(ConfigError, match="unknown kind 'astrology'; known: addition"):
        generate_problems(1, seed=0, kinds=["astrology"])
    with pytest.raises(ConfigError, match="unknown language 'fr'"):
        generate_problems(1, seed=0, languages=["fr"])
    with pytest.raises(ConfigError, match="none given"):
        generate_problems(1, seed=0, kinds=[])


def test_running_out_of_problems_is_an_error_after_all_were_given():
    every_colour = sum(len(QUESTIONS["colour"][lang]) for lang in ("en", "zh")) * len(facts.COLOURS)
    assert len(generate_problems(every_colour, seed=0, kinds=["colour"])) == every_colour
    with pytest.raises(DataError, match=f"only {every_colour} different problems"):
        generate_problems(every_colour + 1, seed=0, kinds=["colour"])


def test_a_key_is_one_problem_in_all_its_words():
    def meaning(problem: Problem) -> str:
        return {"even": "偶数", "odd": "奇数"}.get(problem.answer, problem.answer.replace("、", ", "))

    answers: dict[str, set[str]] = {}
    for problem in PROBLEMS:
        answers.setdefault(problem.key, set()).add(meaning(problem))
    assert [key for key, different in answers.items() if len(different) > 1] == []
    sums = {tuple(sorted(map(int, re.findall(r"\d+", p.prompt)))): p.key for p in PROBLEMS if p.kind == "addition"}
    assert len(set(sums.values())) == len(sums)  # a + b and b + a share one key, others do not


@given(key=st.text(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_larger_share_holds_out_more_and_never_less(key: str, low: float, high: float):
    assume(key.isprintable())
    low, high = sorted((low, high))
    assert is_held_out(key, low) <= is_held_out(key, high)
    assert not is_held_out(key, 0)
    assert is_held_out(key, 1)


def test_the_held_out_share_is_what_was_asked_for_and_pinned():
    keys = [f"add:{a}+{b}" for a in range(100) for b in range(100)]
    assert sum(is_held_out(key, 0.1) for key in keys) == pytest.approx(1000, abs=100)
    digest = int(hashlib.sha256(b"add:17+25").hexdigest()[:16], 16) / 2**64
    assert not is_held_out("add:17+25", digest - 1e-9)
    assert is_held_out("add:17+25", digest + 1e-9)


@given(
    problem=problems,
    before=st.sampled_from(["", " ", "\n", '"', "**"]),
    after=st.sampled_from(["", ".", "。", '"', "**", " \n"]),
)
def test_the_right_answer_is_right(problem: Problem, before: str, after: str):
    assert verify(problem, f"{before}{problem.answer}{after}") == 1.0


@given(problem=problems)
def test_the_right_answer_in_a_sentence_is_right(problem: Problem):
    assert verify(problem, f"The answer is {problem.answer}.") == 1.0
    assert verify(problem, f"答案：{problem.answer}。") == 1.0
    assert verify(problem, f"{problem.prompt}\nAnswer: {problem.answer}") == 1.0


def alike(problem: Problem) -> tuple[str, ...]:
    """Problems with the same have comparable answers: a kind, a language, and symbols apart from names."""
    return problem.kind, problem.language, str(problem.answer.istitle()) if problem.kind == "element" else ""


GROUPS: dict[tuple[str, ...], list[Problem]] = {}
for generated in PROBLEMS:
    GROUPS.setdefault(alike(generated), []).append(generated)
pairs = st.sampled_from(list(GROUPS.values())).flatmap(
    lambda group: st.tuples(st.sampled_from(group), st.sampled_from(group)).filter(lambda p: p[0].answer != p[1].answer)
)


@given(pair=pairs)
def test_another_problems_answer_is_wrong(pair: tuple[Problem, Problem]):
    problem, other = pair
    assert verify(problem, other.answer) == 0.0
    assert verify(problem, f"The answer is {other.answer}.") == 0.0


@given(pair=pairs, joint=st.sampled_from([", ", " or ", " ", "或", "\n", " and ", "、", "; "]))
def test_two_answers_are_wrong(pair: tuple[Problem, Problem], joint: str):
    problem, other = pair
    assert verify(problem, f"{problem.answer}{joint}{other.answer}") == 0.0
    assert verify(problem, f"{other.answer}{joint}{problem.answer}") == 0.0


@given(problem=problems)
def test_repeating_the_question_is_no_answer(problem: Problem):
    if re.findall(r"\w+", problem.answer)[0] not in problem.prompt or problem.kind == "reversal":
        assert verify(problem, problem.prompt) == 0.0
    assert verify(problem, "") == 0.0


def ask(prompt: str) -> Problem:
    language = "zh" if re.search("[\u4e00-\u9fff]", prompt) else "en"
    kinds = {"sum": "addition", "larger": "comparison", "最小": "comparison", "Sort": "sorting", "even": "parity"}
    kinds |= {"capital": "capital", "首都": "capital", "symbol": "element", "opposite": "opposite"}
    kinds |= {"Reverse": "reversal", "comes after": "weekday", "第一个字": "letter", "几月": "month"}
    kind = next(kind for word, kind in kinds.items() if word in prompt)
    answer = solve(prompt)
    assert answer is not None
    return Problem(kind, language, prompt, answer, "key")


SUM = "What is the sum of 17 and 25?"


@pytest.mark.parametrize(
    ("prompt", "response", "right"),
    [
        (SUM, "17 + 25 = 42", True),
        (SUM, "The sum of 17 and 25 is 42.", True),
        (SUM, "Well, 42!", True),
        (SUM, "４２", True),
        (SUM, "等于42。", True),
        (SUM, "421", False),
        (SUM, "-42", False),
        (SUM, "42.5", False),
        (SUM, "142", False),
        (SUM, "4 2", False),
        (SUM, "1,042", False),
        (SUM, "42%", False),
        (SUM, "x42", False),
        (SUM, "042", False),
        (SUM, "17, 25, 42", False),
        (SUM, "I guess 17, 25 or 42", False),
        (SUM, "41 or 42", False),
        (SUM, "17 + 25 = 41 = 42", False),
        (SUM, "It is not 42.", False),
        (SUM, "Answer: 41. Answer: 42.", False),
        (SUM, "41. The answer is 42.", True),
        (SUM, "The answer is 42 or 43.", False),
        ("What is the sum of 25 and 0?", "25 + 0 = 25", True),
        ("What is the sum of 25 and 0?", "25 and 0", False),
        ("Which number is the larger: 17 or 25?", "The larger is 25.", True),
        ("Which number is the larger: 17 or 25?", "17 or 25", False),
        ("Which number is the larger: 17 or 25?", "17 is larger than 25", False),
        ("在25和17中，最小的数是哪个？", "最小的数是17。", True),
        ("在25和17中，最小的数是哪个？", "25和17", False),
        ("Sort these numbers from smallest to largest: 9, 51, 28.", "9 28 51", True),
        ("Sort these numbers from smallest to largest: 9, 51, 28.", "9, 51, 28 sorted: 9, 28, 51", True),
        ("Sort these numbers from smallest to largest: 9, 51, 28.", "9, 51, 28", False),
        ("Sort these numbers from smallest to largest: 9, 51, 28.", "9, 28, 51, 60", False),
        ("Sort these numbers from smallest to largest: 9, 51, 28.", "28, 51", False),
        ("Is 8 even or odd?", "8 is even.", True),
        ("Is 8 even or odd?", "even or odd", False),
        ("Is 8 even or odd?", "It isn't even.", False),
        ("What is the capital of France?", "paris", True),
        ("What is the capital of France?", "Paris is the capital of France.", True),
        ("What is the capital of France?", "Paris or Springfield", False),
        ("What is the capital of France?", "Paris Berlin", False),
        ("What is the capital of France?", "Parisian", False),
        ("法国的首都是哪里？", "法国的首都是巴黎。", True),
        ("法国的首都是哪里？", "巴黎、伦敦", False),
        ("首都是巴西利亚的国家是哪个？", "巴西利亚是巴西的首都。", True),
        ("首都是巴西利亚的国家是哪个？", "巴西利亚", False),
        ("What is the chemical symbol of gold?", "Au", True),
        ("What is the chemical symbol of gold?", "AU", False),
        ("What is the chemical symbol of gold?", "Au and Ag", False),
        ("What is the opposite of hot?", "The opposite of hot is cold.", True),
        ("What is the opposite of hot?", "hot, cold", False),
        ("What day comes after Monday?", "Tuesday comes after Monday.", True),
        ("What day comes after Monday?", "Monday Tuesday", False),
        ("十月之后是几月？", "十一月", True),
        ("十月之后是几月？", "一月", False),
        ("十二月之后是几月？", "十一月", False),
        ("Reverse the letters: c a t.", "tac", True),
        ("Reverse the letters: c a t.", "It is t a c.", True),
        ("Reverse the letters: c a t.", "t a", False),
        ("Reverse the letters: c a t.", "t a c t a c", False),
        ("天 地 人，第一个字是什么？", "第一个字是天。", True),
        ("天 地 人，第一个字是什么？", "天 地", False),
    ],
)
def test_grading_by_example(prompt: str, response: str, right: bool):
    assert verify(ask(prompt), response) == float(right)


def test_capitals_agree_with_the_world_factbook():
    """The demo corpus has an independent list of capitals."""
    countries = {document.title: document.text for document in demo_documents() if document.source == "world-factbook"}
    text = {"South Korea": "Korea, South"}
    for country, capital, _, _ in facts.CAPITALS:
        profile = countries.get(country) or countries.get(text.get(country, ""))
        assert profile is not None, country
        assert f"\nCapital: {capital}" in profile, country


def test_tables_are_one_to_one():
    tables = [*zip(*facts.CAPITALS, strict=True), *zip(*facts.ELEMENTS, strict=True)]
    halves = (slice(0, 2), slice(2, 4))
    tables += [tuple(word for row in facts.OPPOSITES for word in row[half]) for half in halves]
    tables += [facts.OBJECTS["en"], facts.OBJECTS["zh"], facts.LETTERS["en"], facts.LETTERS["zh"]]
    for column in tables:
        assert [word for word, times in Counter(column).items() if times > 1] == []
    assert len(facts.CAPITALS) >= 60
    assert len(facts.ELEMENTS) >= 40
    assert len(facts.OBJECTS["en"]) == len(facts.OBJECTS["zh"])
    for english, symbol, chinese in facts.ELEMENTS:
        assert re.fullmatch("[A-Z][a-z]?", symbol) and english.islower() and len(chinese) == 1
    assert set(QUESTIONS) == set(STATEMENTS)
    assert set(RULES) | set(KNOWLEDGE) == set(KINDS)


DOCUMENTS = statement_documents(1500, seed=3, held_out_share=0.2)


def test_held_out_problems_never_appear_in_statement_documents():
    questions = re.compile(r"^(?:Q|Question|问|问题)[:：]\s*(.*)\n(?:A|Answer|答|答案)[:：]\s*(.*)$", re.MULTILINE)
    asked = [match for document in DOCUMENTS for match in questions.findall(document.text)]
    assert len(asked) > 3000
    pool = generate_problems(60_000, seed=11, kinds=list(RULES)) + [p for p in PROBLEMS if p.kind in KNOWLEDGE]
    by_prompt = {problem.prompt: problem for problem in pool}
    known = [(by_prompt[prompt], answer) for prompt, answer in asked if prompt in by_prompt]
    assert len(known) > 500
    assert [problem for problem, _ in known if is_held_out(problem.key, 0.2)] == []
    assert all(verify(problem, answer) == 1 for problem, answer in known)


def test_held_out_sums_are_not_stated_either():
    text = "\n".join(document.text for document in DOCUMENTS)
    stated = re.findall(r"(\d+) (?:\+|plus) (\d+)|sum of (\d+) and (\d+)|(\d+)[加与](\d+)", text)
    stated = [[number for number in found if number] for found in stated]
    assert len(stated) > 200
    pairs = [sorted(map(int, found)) for found in stated]
    keys = {f"add:{a}+{b}" for a, b in pairs if b >= 10}  # sums of two digits are steps of the others
    assert not [key for key in keys if is_held_out(key, 0.2)]


def test_stated_arithmetic_is_right():
    text = "\n".join(document.text for document in DOCUMENTS)
    lines = re.findall(r"^(\d+) ([+×-]) (\d+) = (\d+)[.。]$", text, re.MULTILINE)
    assert len(lines) > 200
    for a, sign, b, answer in lines:
        assert {"+": int(a) + int(b), "-": int(a) - int(b), "×": int(a) * int(b)}[sign] == int(answer)


def test_every_fact_is_stated_in_both_languages():
    lines = [line for document in statement_documents(3000, seed=0) for line in document.text.split("\n")]
    lines = [line for line in lines if not re.match(r"Q|A:|Answer:|问|答", line)]
    for country, capital, country_zh, capital_zh in facts.CAPITALS:
        for known in ((country, capital), (country_zh, capital_zh)):
            assert any(known[0] in line and known[1] in line for line in lines), known


def test_statement_documents_are_documents():
    assert statement_documents(20, seed=3, held_out_share=0.2) == DOCUMENTS[:20]
    assert {document.label for document in DOCUMENTS} == {"arithmetic", "knowledge"}
    assert {document.language for document in DOCUMENTS} == {"en", "zh"}
    for document in DOCUMENTS:
        assert document.id == document_id(document.text)
        assert document.source == "synthesis"
        assert "{" not in document.text
        assert document.text.count("\n") >= 5
        assert bool(re.search("[\u4e00-\u9fff]", document.text)) == (document.language == "zh")
    assert {document.language for document in statement_documents(20, seed=0, languages=["zh"])} == {"zh"}


ENGLISH = [f"Sentence {n} of Mr. Smith is here. And {n} more came! Did they?" for n in range(40)]
CHINESE = [f"这是第{n}段的第一句。后面还有{n}句！是不是？" for n in range(60)]


@given(
    seed=st.integers(),
    filler=st.sampled_from([ENGLISH, CHINESE]),
    target=st.integers(300, 20_000),
    depth=st.floats(0, 1),
)
def test_recall_documents_hold_one_fact_at_the_depth_asked_for(seed: int, filler: list[str], target: int, depth: float):
    text, question, answer = recall_document(Random(seed), filler, target, depth)
    assert target - 120 <= len(text) <= target
    assert text.count(answer) == 1
    assert re.fullmatch(r"\d{5}", answer)
    place = text.index(answer)
    assert abs(place - depth * len(text)) < 120
    name = re.search(r"of (\w+)\?|^(..)的", question)
    assert name is not None
    assert (name[1] or name[2]) in text[max(0, place - 40) : place]
    assert "Mr. The" not in text
    without = [s for s in re.split(r"(?<=[.!?。！？])\s*", text) if answer not in s and s]
    assert all(any(sentence in paragraph for paragraph in filler) or sentence == "Mr." for sentence in without)


def test_recall_documents_are_repeatable_and_refuse_nonsense():
    assert recall_document(Random(5), ENGLISH, 500, 0.5) == recall_document(Random(5), ENGLISH, 500, 0.5)
    assert "的" in recall_document(Random(5), ENGLISH, 500, 0.5, language="zh")[1]
    for filler, target, depth in [([], 500, 0.5), (["  "], 500, 0.5), (ENGLISH, 10, 0.5), (ENGLISH, 500, 1.5)]:
        with pytest.raises(DataError):
            recall_document(Random(0), filler, target, depth)


def test_the_planted_number_stands_nowhere_else():
    _, _, first_choice = recall_document(Random(5), ENGLISH, 500, 0.5)
    filler = [f"The number {first_choice} was on the door.", *ENGLISH]
    text, _, answer = recall_document(Random(5), filler, 20_000, 0.5)
    assert first_choice in text
    assert answer != first_choice
    assert text.count(answer) == 1
