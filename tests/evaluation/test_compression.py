from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from kaiyuan.errors import DataError
from kaiyuan.evaluation.compression import compression_by_language, xz_bits_per_byte, xz_size

WORDS = ("sea", "wind", "harbour", "morning", "船", "风", "港口", "早晨", "and", "the", "old", "men")


def sentences(seed: int, count: int) -> str:
    rng = Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(count))


@pytest.mark.skipif(shutil.which("xz") is None, reason="needs the xz program")
def test_agrees_with_the_xz_program(tmp_path: Path) -> None:
    train, heldout = sentences(1, 4000), sentences(2, 700)

    def size(text: str) -> int:
        path = tmp_path / "text"
        path.write_text(text, encoding="utf-8")
        return len(subprocess.run(["xz", "-9e", "-T1", "-c", str(path)], capture_output=True, check=True).stdout)

    expected = 8 * (size(train + heldout) - size(train)) / len(heldout.encode("utf-8"))
    assert xz_bits_per_byte([train[:500], train[500:]], [heldout[:90], heldout[90:]]) == pytest.approx(expected)
    assert xz_size(train.encode()) == size(train)


def test_what_was_seen_before_costs_almost_nothing() -> None:
    text = sentences(3, 3000)
    assert xz_bits_per_byte([text], [text]) < 0.05
    assert xz_bits_per_byte([sentences(4, 3000)], [text]) > 1.0


def test_takes_the_better_history() -> None:
    train = {"en": [sentences(1, 3000)], "zh": [sentences(2, 100)]}
    heldout = {"en": [sentences(5, 500)], "zh": [sentences(1, 3000)[:2000]], "code": [""]}
    found = compression_by_language(train, heldout)
    assert set(found) == {"en", "zh"}, "a language without held-out text has nothing to compress"
    assert found["zh"]["behind"] == "all text", "the Chinese text held out here is in the English training text"
    everything = train["en"] + train["zh"]
    for language, row in found.items():
        own = xz_bits_per_byte(train[language], heldout[language])
        shared = xz_bits_per_byte(everything, heldout[language])
        assert row["xz_bits_per_byte"] == pytest.approx(min(own, shared))
        assert row["bytes"] == len(heldout[language][0].encode("utf-8"))
    assert xz_bits_per_byte(train["zh"], heldout["zh"]) > 2 * found["zh"]["xz_bits_per_byte"]


def test_a_language_without_training_text_is_compressed_behind_the_others() -> None:
    found = compression_by_language({"en": [sentences(1, 500)]}, {"zh": [sentences(2, 300)]})
    assert found["zh"]["xz_bits_per_byte"] == pytest.approx(xz_bits_per_byte([], [sentences(2, 300)]))


def test_nothing_to_compress_is_an_error() -> None:
    with pytest.raises(DataError, match="held_out_share"):
        xz_bits_per_byte(["text"], [""])
