"""Pairs from files and from the policy's own answers, and the batches made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from aligned_models import TEXT, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.alignment.dpo import DPOObjective, answer_log_probs, reference_log_probs
from kaiyuan.alignment.preference import (
    OnlineSampler,
    PreferencePair,
    PreferenceSource,
    best_against_worst,
    collate,
    offline_pairs,
)
from kaiyuan.curation.build import Selection, build
from kaiyuan.curation.command import check_pair_files
from kaiyuan.errors import DataError
from kaiyuan.files import write_jsonl
from kaiyuan.inference.engine import Completion
from kaiyuan.inference.params import SamplingParams
from kaiyuan.model.routing import DROPLESS
from kaiyuan.model.transformer import Transformer
from kaiyuan.recipe import load_recipe
from kaiyuan.tokenizer import Tokenizer, render_chat, train_tokenizer
from kaiyuan.training.trainer import Trainer, TrainerSettings

PAD, EOS = 99, 98
VOCAB = 448


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXT, 420)


def completion(*ids: int, finish: str = "stop") -> Completion:
    return Completion(list(ids), " ".join(map(str, ids)), finish, [0.0] * len(ids))


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=2, max_size=6))
def test_the_best_answer_goes_against_the_worst(rewards: list[float]) -> None:
    answers = [completion(number) for number in range(len(rewards))]
    pair = best_against_worst([7], answers, rewards, EOS)
    if len(set(rewards)) == 1:
        assert pair is None
    else:
        assert pair is not None
        best, worst = pair.chosen[0], pair.rejected[0]
        assert rewards[best] == max(rewards)
        assert rewards[worst] == min(rewards)
        assert max(rewards) not in rewards[:best]
        assert min(rewards) not in rewards[:worst]


def test_only_an_answer_that_ended_learns_to_end() -> None:
    pair = best_against_worst([7], [completion(1, 2), completion(3, 4, finish="length")], [1.0, 0.0], EOS)
    assert pair == PreferencePair([7], [1, 2, EOS], [3, 4])


def test_rows_hold_prompt_and_answer_and_weigh_the_answer() -> None:
    batch = collate([PreferencePair([1, 2, 3], [4, 5, EOS], [6]), PreferencePair([7], [8], [9, 10])], PAD, multiple=4)
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 5, *[PAD] * 3], [1, 2, 3, *[PAD] * 5], [7, *[PAD] * 7],
                                     [7, 9, *[PAD] * 6]]  # fmt: skip
    assert batch.targets_BT[batch.weights_BT > 0].tolist() == [4, 5, EOS, 6, 8, 9, 10]
    assert batch.weights_BT.sum(1).tolist() == [3, 1, 1, 2]
    assert batch.documents_BT is None
    assert batch.group == 2
    assert collate([PreferencePair([1], [2], [3])], PAD).ids_BT.shape == (2, 16)


def test_padding_changes_no_log_probability() -> None:
    model = tiny_model().eval()
    pairs = [PreferencePair([1, 2, 3], [4, 5, EOS], [6]), PreferencePair([7], [8], list(range(20, 50)))]
    together = reference_log_probs(model, collate(pairs, PAD))
    alone = torch.cat([reference_log_probs(model, collate([pair], PAD, multiple=1)) for pair in pairs])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", ["prompt", "chosen", "rejected"])
def test_a_pair_without_tokens_is_an_error(missing: str) -> None:
    values = {"prompt": [1], "chosen": [2], "rejected": [3]} | {missing: []}
    with pytest.raises(DataError, match=f"no tokens in its {missing}"):
        PreferencePair(**values)


ROW: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is 17 + 25?"}], "chosen": "42", "rejected": "43 <|eos|> <|extra_0|>",
}  # fmt: skip


def test_offline_pairs_are_read_from_a_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [ROW, {**ROW, "kind": "other keys do not matter"}])
    pair, again = offline_pairs(tmp_path / "pairs.jsonl", tokenizer)
    assert pair == again
    assert pair.prompt == render_chat(tokenizer, ROW["messages"])
    assert pair.chosen == [*tokenizer.encode("42"), tokenizer.eos_id]
    assert tokenizer.decode(pair.rejected[:-1]) == ROW["rejected"]
    assert not set(pair.rejected[:-1]) & set(tokenizer.special_ids.values()), "text must never become a special token"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (5, "expected {"),
        ({"chosen": "a", "rejected": "b"}, "expected {"),
        ({**ROW, "chosen": ""}, "chosen must be a text"),
        ({**ROW, "rejected": None}, "rejected must be a text"),
        ({**ROW, "rejected": "42"}, "the same answer"),
        ({**ROW, "messages": [{"role": "assistant", "content": "x"}]}, r"messages\[0\]: an assistant message must"),
        ({**ROW, "messages": []}, "no messages"),
    ],
)
def test_a_bad_offline_pair_is_named(tmp_path: Path, tokenizer: Tokenizer, row: object, message: str) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [ROW, row])
    with pytest.raises(DataError, match=f"pairs.jsonl: pair 2: .*{message}"):
        offline_pairs(tmp_path / "pairs.jsonl", tokenizer)


class FakeSampler:
    """Answers each prompt ``n`` times with its first id, the number of the answer and the seed it was asked with."""

    calls: list[list[int | None]] = []

    def __init__(self, model: Transformer, tokenizer: Tokenizer) -> None:
        pass

    def generate(self, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Completion]:
        self.calls.append([setting.seed for setting in params])
        return [
            completion(prompt[0], copy)
            for prompt, setting in zip(prompts, params, strict=True)
            for copy in range(setting.n)
        ]


def test_online_pairs_belong_to_their_prompts(tokenizer: Tokenizer) -> None:
    """Of prompt 10 + i the answer number i is best; prompt 13 has no fourth answer, all of its rewards are equal."""
    asked: list[int] = []

    def reward(index: int, text: str) -> float:
        first, copy = map(int, text.split())
        assert first == 10 + index, "the answer of another prompt"
        asked.append(index)
        return float(copy == index) - 0.5 * (copy == (index + 1) % 3 and index < 3)

    prompts = [[10 + index, 5] for index in range(4)]
    sampler = OnlineSampler(prompts, reward, SamplingParams(n=3), 0, tokenizer, FakeSampler)
    FakeSampler.calls = []
    pairs, metrics = sampler.pairs(tiny_model(), 0, 9)
    assert sorted(pair.prompt[0] for pair in pairs) == [10, 11, 12]
    for pair in pairs:
        index = pair.prompt[0] - 10
        assert pair.chosen == [10 + index, index, tokenizer.eos_id]
        assert pair.rejected == [10 + index, (index + 1) % 3, tokenizer.eos_id]
    assert sorted(asked) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert metrics == {"sample_reward": pytest.approx(3 * 0.5 / 12), "mixed_prompts": 0.75}

    for step in (0, 1):
        sampler.pairs(tiny_model(), step, 9)
    first, same, other = FakeSampler.calls
    assert first == same
    assert len({*first, *other}) == 8, "every prompt of every step has a seed of its own"


def online(tokenizer: Tokenizer, offline: Sequence[PreferencePair]) -> OnlineSampler:
    """Samples of a real engine; the reward counts the letter e."""
    params = SamplingParams(max_tokens=6, n=3)
    return OnlineSampler([pair.prompt for pair in offline], lambda _, text: text.count("e"), params, 3, tokenizer)


@pytest.fixture
def offline(tokenizer: Tokenizer) -> list[PreferencePair]:
    texts = [text[start : start + 10] for text in TEXT[:4] for start in (0, 9, 18)]
    return [
        PreferencePair(tokenizer.encode(text), tokenizer.encode(text[:4]), tokenizer.encode(text[3:])) for text in texts
    ]


def source(tokenizer: Tokenizer, offline: Sequence[PreferencePair], **changes: Any) -> PreferenceSource:
    settings: dict[str, Any] = {"pairs": 6, "online_share": 0.5, "pad_id": tokenizer.pad_id, "seed": 3, **changes}
    return PreferenceSource(offline, online(tokenizer, offline), tiny_model(1, VOCAB).eval(), **settings)


def test_a_batch_depends_on_step_and_weights_alone(tokenizer: Tokenizer, offline: list[PreferencePair]) -> None:
    model = tiny_model(2, VOCAB)
    one = source(tokenizer, offline)
    expected = {step: one.batch(step, model) for step in (4, 5)}
    assert expected[4].metrics["online_pairs"] > 0, "or sampling is not tested"
    torch.manual_seed(1234)
    found = source(tokenizer, offline).batch(5, model.train())
    for name in ("ids_BT", "targets_BT", "weights_BT"):
        assert torch.equal(getattr(found, name), getattr(expected[5], name))
    assert torch.equal(found.extra["reference"], expected[5].extra["reference"])
    assert found.metrics == expected[5].metrics
    assert not torch.equal(found.ids_BT, expected[4].ids_BT)
    assert not torch.equal(found.ids_BT, source(tokenizer, offline).batch(5, tiny_model(3, VOCAB)).ids_BT)


def test_offline_pairs_fill_up_for_missing_online_ones(tokenizer: Tokenizer, offline: list[PreferencePair]) -> None:
    """A reward that never differs gives no online pairs; the batch is full all the same."""
    made = source(tokenizer, offline)
    indifferent = OnlineSampler(made.online.prompts, lambda *_: 1.0, made.online.params, 3, tokenizer)
    made.online = indifferent
    batch = made.batch(0, tiny_model(2, VOCAB))
    assert len(batch.ids_BT) == 12
    assert batch.metrics == {"sample_reward": 1.0, "mixed_prompts": 0.0, "online_pairs": 0}
    rows = {tuple(row) for row in batch.ids_BT.tolist()}
    known = {tuple(row) for row in collate(offline, tokenizer.pad_id).ids_BT.tolist()}
    assert rows <= known
    assert len(rows) == 12, "as long as there are enough, none comes twice"
    assert len(source(tokenizer, offline[:2], online_share=0.0).batch(0, made.reference).ids_BT) == 12
    with pytest.raises(DataError, match="no offline preference pairs"):
        source(tokenizer, [])


def test_the_reference_is_the_frozen_model_in_evaluation(tokenizer: Tokenizer, offline: list[PreferencePair]) -> None:
    made = source(tokenizer, offline, online_share=0.0)
    made.reference.mode.hidden_dropout = 0.5
    made.reference.train()
    batch = made.batch(0, tiny_model(2, VOCAB))
    with torch.no_grad():
        expected, _, _ = answer_log_probs(tiny_model(1, VOCAB).eval(), batch)
    torch.testing.assert_close(batch.extra["reference"], expected, rtol=1e-5, atol=1e-5)
    assert not batch.extra["reference"].requires_grad


def dpo_trainer(tokenizer: Tokenizer, offline: list[PreferencePair], folder: Path, steps: int) -> Trainer:
    settings = TrainerSettings(steps=steps, lr=0.003, ema_decay=0.5, routing=DROPLESS, checkpoint_every=3)
    folder.mkdir(exist_ok=True)
    made = source(tokenizer, offline, online_share=1.0, pairs=8)
    return Trainer("dpo", tiny_model(1, VOCAB), made, DPOObjective(0.1), settings, folder)


def log(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def test_an_interrupted_dpo_run_resumes_exactly(
    tmp_path: Path, tokenizer: Tokenizer, offline: list[PreferencePair]
) -> None:
    expected = dpo_trainer(tokenizer, offline, tmp_path / "whole", 6).fit()
    halved = dpo_trainer(tokenizer, offline, tmp_path / "halved", 6)

    def stop(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    halved.on_step = stop
    with pytest.raises(KeyboardInterrupt):
        halved.fit()
    resumed = dpo_trainer(tokenizer, offline, tmp_path / "halved", 6)
    assert resumed.step == 3
    found = resumed.fit()
    assert log(tmp_path / "halved") == log(tmp_path / "whole")
    assert sum(line["online_pairs"] for line in log(tmp_path / "whole")) > 6
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.slow
def test_online_pairs_raise_the_reward(tmp_path: Path, tokenizer: Tokenizer, offline: list[PreferencePair]) -> None:
    dpo_trainer(tokenizer, offline, tmp_path, 60).fit()
    rewards = [line["sample_reward"] for line in log(tmp_path)]
    assert sum(rewards[-10:]) > 1.5 * sum(rewards[:10]) > 0


def test_a_recipe_names_further_pairs_and_versions_of_curation_are_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "How is tea made?"}], "chosen": "Steep it.", "rejected": "Boil it."}
    folder = tmp_path / "data"
    write_jsonl(tmp_path / "pairs.jsonl", [row])
    check_pair_files(folder, [tmp_path / "pairs.jsonl"])
    build(folder, "v1", Selection())
    recipe = tmp_path / "r.toml"
    recipe.write_text('[run]\nname = "r"\n[dpo]\nsteps = 1\nlr = 0.1\nbatch_size = 2\n'
                      f'pairs = ["{folder}/versions/v1", "{tmp_path}/pairs.jsonl"]\n')  # fmt: skip
    section = load_recipe(recipe).dpo
    assert section is not None
    assert section.files_read() == [folder / "versions/v1/pairs.jsonl", tmp_path / "pairs.jsonl"]
    built, plain = (offline_pairs(path, tokenizer) for path in section.pair_files())
    assert built == plain and len(built) == 1
