"""Answers that must be in a language, by an untrained model that would say anything."""

from __future__ import annotations

import json
import re

import pytest
from tiny_models import TINY, build

from kaiyuan.inference import Engine, Grammar, SamplingParams
from kaiyuan.inference.grammar import GrammarError
from kaiyuan.tokenizer import Tokenizer, train_tokenizer

pytest.importorskip("llguidance", reason="needs the extra 'serve'")
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["李明", "Ann"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    tokenizer: Tokenizer = train_tokenizer(['{"name": "李明", "age": 42} [1, 2, 3] true'] * 9, vocab_size=285)
    config = TINY.replace(vocab_size=tokenizer.vocab_size + 5, max_position_embeddings=256, init_std=0.3)
    return Engine(build(config), tokenizer)


def params(grammar: Grammar, seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.0, max_tokens=120, seed=seed, grammar=grammar)


def test_json_fits_its_schema(engine: Engine) -> None:
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    prompts = ["say", "说"] * 4
    found = engine.generate(prompts, [params(grammar, seed) for seed in range(8)])
    answers = [json.loads(completion.text) for completion in found if completion.finish_reason == "stop"]
    assert len(answers) == 8
    assert all(answer["name"] in ("李明", "Ann") and 0 <= answer["age"] <= 99 for answer in answers)
    assert len({answer["age"] for answer in answers}) > 1


def test_the_whole_answer_matches_the_expression(engine: Engine) -> None:
    pattern = r"(yes|no|也许), [0-9]{3}!"
    for seed in range(5):
        (found,) = engine.generate(["?"], params(Grammar("regex", pattern), seed))
        assert re.fullmatch(pattern, found.text)
        assert found.finish_reason == "stop"


def test_some_answers_are_free_and_others_not(engine: Engine) -> None:
    free = SamplingParams(temperature=1.0, max_tokens=20, seed=3, ignore_eos=True)
    alone = engine.generate(["x"], free)[0].token_ids
    together = engine.generate(["x", "x"], [free, params(Grammar("json"), 5)])
    assert together[0].token_ids == alone
    assert together[1].text.startswith("{")


@pytest.mark.parametrize(
    "grammar",
    [Grammar("json_schema", "{not json"), Grammar("json_schema", '{"type": "nonsense"}'), Grammar("regex", "(")],
)
def test_what_is_no_grammar_is_refused(engine: Engine, grammar: Grammar) -> None:
    with pytest.raises(GrammarError, match=grammar.kind):
        engine.add("x", params(grammar, 0))
    assert len(engine) == 0
