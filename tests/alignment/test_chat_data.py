"""What SFT reads: mixes of files with weights, plain text among the rows, and what the manifest says of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kaiyuan.alignment.chat_data import PlainText, read_chats, weighted
from kaiyuan.alignment.sft import ChatSource, pack
from kaiyuan.corpus.shards import open_shards, write_shards
from kaiyuan.corpus.sources import Document, document_id
from kaiyuan.errors import ConfigError, DataError
from kaiyuan.recipe import load_recipe
from kaiyuan.tokenizer import ChatTokens, Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["the old river runs down to a town " * 20, "山水之间有一个小村子" * 20], 320)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def test_a_file_is_counted_by_label_and_tier(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(
        tmp_path / "sft.jsonl",
        chat("the river", "down", labels={"domain": "science", "topic": "science/earth"}, tier="human"),
        chat("a town", "old", kind="addition", tier="critique 4"),
        chat("held", "out"),
        chat("too long", "the old river " * 50),
        chat("a town", "runs"),
    )
    found = read_chats(path, "mine", tokenizer, 64, {"held"})
    assert found.report(3) == {
        "path": "mine", "samples": 3, "held out": 1, "too long": 1, "used_an_epoch": 3,
        "trained_tokens": sum(len(tokenizer.encode(text)) + 1 for text in ("down", "old", "runs")),
        "labels": {"addition": 1, "science": 1, "unlabelled": 1},
        "tiers": {"critique 4": 1, "human": 1, "unchecked": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "no messages"}, r'sample 2: expected \{"messages"'),
        ({"messages": [{"role": "user", "content": "alone"}]}, "sample 2: no assistant message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"sample 2: messages\[0\]: unknown role 'tool'"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, tokenizer: Tokenizer, row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_chats(write(tmp_path / "bad.jsonl", chat("a", "b"), row), "bad", tokenizer, 64)


@given(st.integers(1, 40), st.floats(0.01, 5))
def test_weights_are_exact_and_repeatable(count: int, weight: float) -> None:
    samples = [ChatTokens([index, index], [False, True]) for index in range(count)]
    found = weighted(samples, weight, "key")
    times = Counter(sample.ids[0] for sample in found)
    assert len(found) == int(weight) * count + round((weight - int(weight)) * count)
    assert set(times.values()) <= {int(weight), int(weight) + 1}
    assert [sample.ids for sample in found] == [sample.ids for sample in weighted(samples, weight, "key")]


def test_plain_rows_have_their_share_of_every_epoch_and_go_on_in_the_next(tmp_path: Path, tokenizer: Tokenizer) -> None:
    text = "the old river runs down to a town. " * 60
    documents = [Document(document_id(text), text, "test", "en", "web")]
    write_shards(documents, tokenizer, tmp_path, "train")
    shards = open_shards(tmp_path, "train")
    rows = pack([ChatTokens([5, 6, 7, 8], [False, False, True, True])] * 24, 8, 0)
    assert len(rows) == 12
    plain = PlainText(shards, {"web": 1.0}, 8, share=0.25, weight=0.5, chat_rows=12, epochs=2, seed=3)
    source = ChatSource(rows, batch_size=4, epochs=2, seed=1, plain=plain)
    assert (plain.per_epoch, source.steps) == (4, 8)
    seen: list[list[int]] = []
    for step in range(source.steps):
        batch = source.batch(step, None)  # type: ignore[arg-type]
        again = source.batch(step, None)  # type: ignore[arg-type]
        assert torch.equal(batch.ids_BT, again.ids_BT)
        seen += [row.tolist() for row, weights in zip(batch.ids_BT, batch.weights_BT, strict=True)
                 if weights.eq(0.5).all()]  # fmt: skip
    assert sorted(seen) == sorted(plain.row(index).ids.tolist() for index in range(8))
    tokens = shards["web"].tokens.tolist()
    for index in range(8):
        row = plain.row(index)
        assert row.targets[:-1].tolist() == row.ids[1:].tolist()
        assert any(tokens[at : at + 8] == row.ids.tolist() for at in range(len(tokens)))


def test_a_recipe_names_files_with_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    base = '[run]\nname = "r"\n[sft]\nlr = 0.1\nbatch_size = 2\n'
    recipe.write_text(base)
    section = load_recipe(recipe).sft
    assert section is not None
    assert [(item.path, item.weight) for item in section.data] == [("synthesis", 1.0)]
    assert (section.plain_share, section.files_read()) == (0.0, [])
    (tmp_path / "set").mkdir()
    recipe.write_text(base + f'data = ["synthesis", {{ path = "{tmp_path}/set", weight = 0.5 }}]\nplain_share = 0.1\n')
    section = load_recipe(recipe).sft
    assert section is not None
    assert section.files_read() == [tmp_path / "set" / "sft.jsonl"]
    assert section.data[1].weight == 0.5
    for wrong in ("data = []", 'data = [{ path = "a", weight = 0.0 }]', "plain_share = 1.0"):
        recipe.write_text(base + wrong)
        with pytest.raises(ConfigError, match=r"sft\."):
            load_recipe(recipe)
