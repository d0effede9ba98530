"""Documents that hold evaluation data are found by the runs of words they share with it.

As for GPT-3 (Brown et al. 2020, appendix C) a document is contaminated if it shares a run of 13 words with an item of
an evaluation set; of Chinese that is 21 characters, at 1.6 to a word. With ``least_share`` above 0 it must share that
part of the item's runs, which spares long quotations that both have from a third text (Llama 2, Touvron et al. 2023,
A.6, calls a sample dirty from 80% on). An item shorter than a run is looked for as a whole from 5 words or 8 characters
on. Case, punctuation and spaces make no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kaiyuan.corpus.sources.streams import damage, open_stream
from kaiyuan.corpus.text import Hashes, Places, Text, ngrams, pieces
from kaiyuan.errors import DataError
from kaiyuan.files import atomic_file, read_jsonl

RUN_WORDS, RUN_HAN = 13, 21
WHOLE_WORDS, WHOLE_HAN = 5, 8
_SIZES = (RUN_WORDS, RUN_HAN, WHOLE_WORDS, WHOLE_HAN)
_FIELDS = ("question", "prompt", "problem", "instruction", "query", "input", "context", "passage", "text", "sentence",
           "premise", "hypothesis", "solution", "canonical_solution", "answer", "response", "output")  # fmt: skip
_FILTER_BITS = 20


@dataclass(frozen=True)
class Finding:
    """A document's contamination: the set, which of its items, and the share of the item's runs that it holds."""

    set: str
    item: int
    share: float


def read_items(path: str | Path) -> Iterator[str]:
    """The items of an evaluation set: a dataset of the Hugging Face hub (``hf://owner/name:config/test``), a Parquet
    file, a value of JSON a line (plain, .gz, .zst, .xz), or a paragraph of text each.

    Of an object the usual fields count (question, prompt, answer, ...), together; of a chat all that is said.
    """
    for number, row in enumerate(_rows(str(path)), 1):
        text = row if isinstance(row, str) else _text_of(row)
        if not text:
            raise DataError(f"{path}:{number}: no text to look for; known fields: {', '.join(_FIELDS)}, messages")
        yield text


def _rows(name: str) -> Iterator[Any]:
    if name.startswith("hf://"):
        from kaiyuan.corpus.sources import hub

        yield from hub.rows(name)
    elif name.endswith(".parquet"):
        yield from _table(Path(name))
    elif re.search(r"\.jsonl?(\.(gz|zst|xz))?$", name):
        yield from _lines(Path(name))
    else:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{name}: not a readable evaluation set: {error}") from None
        yield from filter(None, (item.strip() for item in text.split("\n\n")))


def _lines(path: Path) -> Iterator[Any]:
    if path.suffix in (".jsonl", ".json"):
        yield from read_jsonl(path)
        return
    number = 0
    errors: tuple[type[Exception], ...] = (OSError, ValueError, *damage())
    try:
        with open_stream(path) as stream:
            for line in stream:
                number += 1
                if line.strip():
                    yield json.loads(line)
    except errors as error:
        raise DataError(f"{path}:{number}: not a readable evaluation set: {error}") from None


def _table(path: Path) -> Iterator[dict[str, Any]]:
    from kaiyuan.corpus.sources.parquet import errors, open_table

    try:
        with open_table(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except errors() as error:
        raise DataError(f"{path}: not a readable evaluation set: {error}") from None


def _text_of(row: Any) -> str:
    if not isinstance(row, dict):
        return ""
    said = [turn.get("content") for turn in row.get("messages", ()) if isinstance(turn, dict)]
    return "\n".join(text for text in (*(row.get(name) for name in _FIELDS), *said) if isinstance(text, str))


class Contamination:
    """Evaluation sets, ready to be looked for; kept in a file that workers share."""

    def __init__(self, names: Sequence[str], sizes: Sequence[int], arrays: dict[str, Any]) -> None:
        self.names = list(names)
        self.sizes = list(sizes)
        """How many items each set has."""
        self.arrays = arrays
        self._filters = {size: _filter(arrays[f"hashes{size}"]) for size in _SIZES if len(arrays[f"hashes{size}"])}

    @classmethod
    def of(cls, sets: dict[str, Iterable[str]]) -> Contamination:
        """From the items of each set by its name."""
        found: dict[int, list[tuple[Hashes, Places, Hashes]]] = {size: [] for size in _SIZES}
        sizes, runs = [], [0]
        for items in sets.values():
            before = len(runs)
            for item in items:
                size, hashes, whole = _runs_of(item)
                if size:
                    found[size].append((hashes, np.full(len(hashes), len(runs) - 1), whole))
                runs.append(len(hashes))
            sizes.append(len(runs) - before)
        arrays: dict[str, Any] = {"runs": np.array(runs[1:], dtype=np.int64)}
        for size, parts in found.items():
            hashes, items_, wholes = (
                np.concatenate([part[place] for part in parts] or [np.zeros(0, np.uint64)]) for place in range(3)
            )
            order = np.argsort(hashes, kind="stable")
            arrays |= {f"hashes{size}": hashes[order], f"items{size}": items_.astype(np.int64)[order],
                       f"wholes{size}": wholes[order]}  # fmt: skip
        return cls(list(sets), sizes, arrays)

    def save(self, path: Path) -> None:
        head = np.frombuffer(json.dumps([self.names, self.sizes]).encode(), dtype=np.uint8)
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, head=head, **self.arrays)

    @classmethod
    def load(cls, path: Path) -> Contamination:
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            names, sizes = json.loads(arrays.pop("head").tobytes())
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: not a readable index of evaluation sets ({error}); run again") from None
        return cls(names, sizes, arrays)

    def find(self, text: str | Text, least_share: float = 0.0) -> Finding | None:
        """The item that ``text`` holds most of, or None if it holds too little of any."""
        views = [text] if isinstance(text, Text) else [Text(piece) for piece in pieces(text)]
        hits: list[Places] = [self._hits(view, size) for view in views for size in self._filters]
        items = np.concatenate(hits or [np.zeros(0, np.int64)])
        if not len(items):
            return None
        numbers, counts = np.unique(items, return_counts=True)
        shares = counts / self.arrays["runs"][numbers]
        best = int(shares.argmax())
        if shares[best] < least_share:
            return None
        item, name = int(numbers[best]), 0
        while item >= self.sizes[name]:
            item, name = item - self.sizes[name], name + 1
        return Finding(self.names[name], item, min(1.0, float(shares[best])))

    def _hits(self, view: Text, size: int) -> Places:
        """Numbers of the items whose runs of ``size`` units the text has, once for each different run."""
        grams = ngrams(view.hashes, size)
        places = np.flatnonzero(self._filters[size][(grams >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)])
        if not len(places):
            return places
        hashes, items = self.arrays[f"hashes{size}"], self.arrays[f"items{size}"]
        found: list[int] = []
        first_places = dict(zip(grams[places].tolist()[::-1], places.tolist()[::-1], strict=True))
        for value, start in first_places.items():
            first, last = np.searchsorted(hashes, np.uint64(value)), np.searchsorted(hashes, np.uint64(value), "right")
            found += [
                int(items[row])
                for row in range(int(first), int(last))
                if size in (RUN_WORDS, RUN_HAN) or self._is_whole(view, grams, start, size, row)
            ]
        return np.array(found, dtype=np.int64)

    def _is_whole(self, view: Text, grams: Hashes, place: int, size: int, row: int) -> bool:
        """Whether not only the beginning of a short item is in the text, wherever that beginning occurs."""
        expected = self.arrays[f"wholes{size}"][row]
        length = int(expected) >> 56
        starts = np.flatnonzero(grams == grams[place])
        return any(_whole(view.hashes[start : start + length], length) == expected for start in starts)


def _runs_of(item: str) -> tuple[int, Hashes, Hashes]:
    """Size of an item's runs, their different hashes, and for a short item also the hash of the whole; 0: too short."""
    view = Text(item)
    count = len(view.hashes)
    run, whole = (RUN_HAN, WHOLE_HAN) if view.is_han else (RUN_WORDS, WHOLE_WORDS)
    if count >= run:
        grams = np.unique(ngrams(view.hashes, run))
        return run, grams, np.zeros(len(grams), dtype=np.uint64)
    if count >= whole:
        return whole, ngrams(view.hashes[:whole], whole), np.array([_whole(view.hashes, count)], dtype=np.uint64)
    return 0, view.hashes[:0], view.hashes[:0]


def _whole(hashes: Hashes, length: int) -> np.uint64:
    """The hash of a run of any length, with the length in its first byte; 0 if the run is cut off."""
    if len(hashes) < length:
        return np.uint64(0)
    return np.uint64((length << 56) | (int(ngrams(hashes, length)[0]) >> 8))


def _filter(hashes: Hashes) -> Any:
    """Which of the first bits occur at all; most runs of a document are out after one look."""
    table = np.zeros(2**_FILTER_BITS, dtype=bool)
    table[(hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)] = True
    return table
