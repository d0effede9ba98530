"""The yardstick for bits per byte: what a general compressor needs for the held-out text when it has seen the training
text.

``xz -9e`` looks 64 MiB back and finds every repetition in there. A model that does no better has learned no more than
which strings occur.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from kaiyuan.errors import DataError

DICTIONARY_BYTES = 64 * 2**20
"""How far back ``xz -9`` looks; more training text than that is of no use to it."""
_ALL = "all text"


def xz_size(data: bytes) -> int:
    """Bytes of ``data`` after ``xz -9e`` on one thread."""
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def xz_bits_per_byte(train_texts: Sequence[str], heldout_texts: Sequence[str]) -> float:
    """Bits that ``xz -9e`` needs for a byte of held-out text right behind the training text.

    ``8 * (size(train + heldout) - size(train)) / bytes(heldout)``: the difference leaves out headers and the training
    text itself. The held-out texts are compressed together, so xz also learns from them as it goes.
    """
    train, heldout = _joined(train_texts), _joined(heldout_texts)
    if not heldout:
        raise DataError("there is no held-out text to compress; raise corpus.held_out_share")
    return 8 * (xz_size(train + heldout) - xz_size(train)) / len(heldout)


def compression_by_language(
    train: Mapping[str, Sequence[str]], heldout: Mapping[str, Sequence[str]], workers: int = 2
) -> dict[str, dict[str, float | str]]:
    """``{language: {xz_bits_per_byte, bytes, behind}}`` for every language that has held-out text.

    xz gets the better of two histories, named in ``behind``: the training text in the same language, or all of it.
    ``workers`` texts are compressed at a time; each takes about eleven times its size in memory, 700 MB at most.
    """
    held_out = {language: _joined(texts) for language, texts in sorted(heldout.items()) if any(texts)}
    histories = {language: _joined(train.get(language, ())) for language in held_out}
    if len(train) > 1:
        histories[_ALL] = _joined([text for _, texts in sorted(train.items()) for text in texts])
    jobs = {(history, ""): before for history, before in histories.items()}
    for language, text in held_out.items():
        for history in {language, _ALL} & set(histories):
            jobs[history, language] = histories[history] + text
    with ThreadPoolExecutor(workers) as pool:
        sizes = dict(zip(jobs, pool.map(xz_size, jobs.values()), strict=True))
    results: dict[str, dict[str, float | str]] = {}
    for language, text in held_out.items():
        added = {history: sizes[history, language] - sizes[history, ""]
                 for history in (language, _ALL) if (history, language) in sizes}  # fmt: skip
        best = min(added, key=lambda history: added[history])
        behind = _ALL if best == _ALL else "same language"
        results[language] = {"xz_bits_per_byte": 8 * added[best] / len(text), "bytes": len(text), "behind": behind}
    return results


def _joined(texts: Sequence[str]) -> bytes:
    return "".join(texts).encode("utf-8")
