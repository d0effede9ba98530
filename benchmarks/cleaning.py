"""How fast cleaning and deduplication are, how they grow, what memory they need, and datatrove on the same text.

    python benchmarks/cleaning.py steps            documents/s and MB/s of each step, one core
    python benchmarks/cleaning.py growth           the whole way for 1, 4 and 16 times the text, with 1 and 2 workers
    python benchmarks/cleaning.py peer             against datatrove's filters and MinHash stages, its local executor
    python benchmarks/cleaning.py memory           peak memory against the size of the input, under a limit

Text is the demo corpus in pieces as long as web pages; in further copies of it an eighth of the words are others, so
that none is a near-duplicate. A labelled set of duplicates (``tests/corpus/labelled.py``) is among them, and recall on
it is told for both. The comparison needs datatrove, spacy and jieba, which its filters cut words with.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "tests" / "corpus"))

from labelled import Case, cases

from kaiyuan.corpus.assemble import assemble
from kaiyuan.corpus.boilerplate import without_boilerplate
from kaiyuan.corpus.cleaning import CleanStore
from kaiyuan.corpus.decontaminate import Contamination
from kaiyuan.corpus.dedup import Signer, shingles
from kaiyuan.corpus.filters import QualityRules, View, rejection_of
from kaiyuan.corpus.language import detect
from kaiyuan.corpus.normalize import normalize
from kaiyuan.corpus.pii import anonymize
from kaiyuan.corpus.pipeline import CorpusSettings
from kaiyuan.corpus.rules import SETS, broken, rules_of
from kaiyuan.corpus.sources import Source, demo_documents
from kaiyuan.corpus.work import Store, plan, run_units

LONGEST = 4000
WEB = {"web": list(SETS)}
ZH_VALUES: tuple[dict[str, Any], ...] = (
    {"dup_line_frac": 0.287, "top_n_grams": ((2, 0.256), (3, 0.201), (4, 0.171)),
     "dup_n_grams": ((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.14), (10, 0.127))},
    {"min_avg_word_length": 1, "max_avg_word_length": 5, "max_non_alpha_words_ratio": 0.735,
     "stop_words": list("的了是在不有我一这人也而以其之为于与上下来他")},
    {"line_punct_thr": 0.106, "new_line_ratio": 0.178, "short_line_thr": 999},
)  # fmt: skip


def pages(size: int, seed: int = 1) -> Iterator[tuple[str, str]]:
    """``size`` bytes of pages with their languages: pieces of the demo corpus, in later copies with other words."""
    pieces = [
        (document.text[start : start + LONGEST], document.language)
        for document in demo_documents()
        if document.language != "code"
        for start in range(0, len(document.text), LONGEST)
    ]
    rng = random.Random(seed)
    for copy in itertools.count():
        for text, language in rng.sample(pieces, len(pieces)):
            yield (text if copy == 0 else reworded(text, language, rng)), language
            size -= len(text.encode())
            if size <= 0:
                return


def reworded(text: str, language: str, rng: random.Random) -> str:
    """Another text with the same look: an eighth of its words are others, so that hardly a shingle is left."""
    if language == "zh":
        units = list(text)
        places = [place for place, unit in enumerate(units) if "\u4e00" <= unit <= "\u9fff"]
    else:
        units = text.split(" ")
        places = list(range(len(units)))
    for place in rng.sample(places, len(places) // 8):
        units[place] = units[rng.choice(places)]
    return ("" if language == "zh" else " ").join(units)


def write(folder: Path, size: int, planted: list[Case]) -> tuple[int, int]:
    """Pages and planted documents as JSON lines in files of about 8 MB; returns how many, and their bytes."""
    folder.mkdir(parents=True)
    rows = [{"text": text, "language": language} for text, language in pages(size)]
    rows += [{"text": case.document.text, "language": case.document.language, "case": number}
             for number, case in enumerate(planted)]  # fmt: skip
    random.Random(0).shuffle(rows)
    total = sum(len(row["text"].encode()) for row in rows)
    for number in range(files := max(2, round(total / 8e6))):
        with (folder / f"{number:03d}.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows[number::files]:
                stream.write(json.dumps({"id": row.get("case", -1), **row}, ensure_ascii=False) + "\n")
    return len(rows), total


def steps(size: int, repeats: int) -> None:
    documents = list(pages(size))
    total = sum(len(text.encode()) for text, _ in documents)
    views = [View(text, language) for text, language in documents]
    web = rules_of(SETS)
    exam = Contamination.of({"exam": [text[:200] for text, _ in documents[::50]]})
    rules = QualityRules()
    signer = Signer(0.8)
    timed: dict[str, Callable[[], Any]] = {
        "normalise": lambda: [normalize(text) for text, _ in documents],
        "language": lambda: [detect(text) for text, _ in documents],
        "furniture": lambda: [without_boilerplate(text) for text, _ in documents],
        "take apart": lambda: [(v := View(text, language)).hashes is v.lines.hashes for text, language in documents],
        "quality rules (basic)": lambda: [rejection_of(view, rules) for view in views],
        "rules of the papers": lambda: [list(broken(fresh(view), web, {})) for view in views],
        "contamination": lambda: [exam.find(view) for view in views],
        "personal data": lambda: [anonymize(text) for text, _ in documents],
        "signatures": lambda: [signer.sign([shingles(t) for t, _ in documents[n : n + 64]])
                               for n in range(0, len(documents), 64)],
    }  # fmt: skip
    for view in views:
        assert len(view.hashes) >= 0
        assert len(view.lines.hashes) >= 0
    print(f"{len(documents):,} documents, {total / 1e6:.1f} MB, one core")
    for name, run in timed.items():
        seconds = statistics.median(clocked(run) for _ in range(repeats))
        print(f"{name:24} {len(documents) / seconds:10,.0f} documents/s {total / seconds / 1e6:8.1f} MB/s")


def fresh(view: View) -> View:
    view.duplicates = {}
    return view


def clocked(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ours(source: Path, work: Path, workers: int, settings: CorpusSettings, memory: int = 2**30) -> dict[str, float]:
    """Read, clean, deduplicate and write; seconds of each."""
    marks = [time.perf_counter()]
    units = plan([Source(path=str(source), label="web", id="id")])
    read = Store(work / "read")
    run_units(units, read, workers=workers)
    marks.append(time.perf_counter())
    store = CleanStore(work / "cleaned", read, settings)
    cleaning = store.units(units)
    run_units(cleaning, store, workers=workers, label="cleaning")
    marks.append(time.perf_counter())
    assemble(store, cleaning, work / "out", memory=memory)
    marks.append(time.perf_counter())
    return dict(zip(("read", "clean", "deduplicate and write"), map(float, differences(marks)), strict=True))


def differences(marks: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


def growth(size: int, factors: list[int], workers: list[int]) -> None:
    planted = cases(bases=20)
    for factor, count in itertools.product(factors, workers):
        with tempfile.TemporaryDirectory() as place:
            documents, total = write(Path(place) / "in", size * factor, planted)
            seconds = ours(
                Path(place) / "in", Path(place) / "work", count, CorpusSettings(rules=WEB, line_documents=20)
            )
            whole = sum(seconds.values())
            parts = ", ".join(f"{name} {value:.1f}s" for name, value in seconds.items())
            rate = f"{documents / whole:8,.0f} documents/s {total / whole / 1e6:6.2f} MB/s"
            print(f"{factor:3}x {total / 1e6:6.1f} MB {count} workers: {whole:6.1f}s {rate} ({parts})", flush=True)


def theirs(source: Path, work: Path, workers: int, *, filters: bool = True) -> dict[str, float]:
    """datatrove's filters and MinHash stages with their own values, each language by itself as its filters want it."""
    logging.disable(logging.INFO)
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
        LambdaFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.typeshelper import Languages

    config = MinhashConfig(hash_config=HashConfig(hash_fc=_hash_that_works()))
    taken = {"clean": 0.0, "deduplicate and write": 0.0}
    names = {"en": Languages.english, "zh": Languages.mandarin_chinese}

    def run(name: str, pipeline: list[Any], tasks: int = workers) -> float:
        return clocked(
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=str(work / "logs" / name)).run
        )

    for code, name in names.items():
        folder = work / code
        chain: list[Any] = [JsonlReader(str(source)), LambdaFilter(OfLanguage(code))]
        if filters:
            # For Chinese with the values of FineWeb-2, as ours; with those for English nothing would be left.
            repetition, quality, fineweb = ZH_VALUES if code == "zh" else ({}, {}, {})
            chain += [
                GopherRepetitionFilter(language=name, **repetition),
                GopherQualityFilter(language=name, **quality),
                C4QualityFilter(language=name, filter_no_terminal_punct=False),
                FineWebQualityFilter(language=name, char_duplicates_ratio=0.1, **fineweb),
            ]
        taken["clean"] += run(f"clean {code}", [*chain, JsonlWriter(str(folder / "clean"), compression=None)])
        signatures, pairs, gone = (str(folder / name) for name in ("signatures", "pairs", "gone"))
        read = JsonlReader(str(folder / "clean"))
        stages: list[tuple[list[Any], int]] = [
            ([read, MinhashDedupSignature(signatures, config, language=name)], workers),
            ([MinhashDedupBuckets(signatures, pairs, config=config, lines_to_buffer=4096)], config.num_buckets),
            ([MinhashDedupCluster(pairs, gone, config=config)], 1),
            ([read, MinhashDedupFilter(gone), JsonlWriter(str(folder / "out"), compression=None)], workers),
        ]
        for number, (pipeline, tasks) in enumerate(stages):
            taken["deduplicate and write"] += run(f"dedup {code} {number}", pipeline, tasks)
    return taken


def _hash_that_works() -> Any:
    """datatrove hands strings to xxhash, which from version 4 on wants bytes."""
    try:
        import xxhash

        xxhash.xxh64_intdigest("text")
    except (ImportError, TypeError):
        return "sha1"
    return "xxhash"


class OfLanguage:
    """A filter that can be sent to other processes."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __call__(self, document: Any) -> bool:
        return bool(document.metadata["language"] == self.code)


def kept_cases(paths: list[Path], field: Callable[[dict[str, Any]], Any]) -> set[int]:
    found = (json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    return {number for row in found if (number := int(field(row))) >= 0}


def judged(planted: list[Case], kept: set[int]) -> str:
    """Recall and precision of what is gone: of each base and its duplicates one may stay, of everything else all."""
    groups: dict[int, list[bool]] = {}
    wrong = sum(number not in kept for number, case in enumerate(planted) if not case.duplicate)
    for number, case in enumerate(planted):
        if case.duplicate:
            groups.setdefault(case.base, []).append(number not in kept)
    right = sum(min(sum(gone), len(gone) - 1) for gone in groups.values())
    lost = sum(all(gone) for gone in groups.values())
    due = sum(len(gone) - 1 for gone in groups.values())
    return f"recall {right / due:.1%}, precision {right / max(1, right + wrong + lost):.1%} of {due} planted duplicates"


def peer(size: int, workers: int, rounds: int) -> None:
    planted = cases(bases=40)
    whole: dict[str, list[dict[str, float]]] = {"kaiyuan": [], "datatrove": []}
    with tempfile.TemporaryDirectory() as place:
        documents, total = write(Path(place) / "in", size, planted)
        print(f"{documents:,} documents, {total / 1e6:.1f} MB, {workers} workers, {rounds} rounds")
        for number in range(rounds):
            settings = CorpusSettings(rules=WEB)
            whole["kaiyuan"].append(ours(Path(place) / "in", Path(place) / f"ours{number}", workers, settings))
            whole["datatrove"].append(theirs(Path(place) / "in", Path(place) / f"theirs{number}", workers))
    for name, runs in whole.items():
        middle = statistics.median(sum(run.values()) for run in runs)
        parts = ", ".join(f"{part} {statistics.median(run[part] for run in runs):.1f}s" for part in runs[0])
        rate = f"{documents / middle:8,.0f} documents/s {total / middle / 1e6:6.2f} MB/s"
        print(f"{name:10} {middle:7.1f}s {rate} ({parts})")
    ratios = [sum(b.values()) / sum(a.values()) for a, b in zip(whole["kaiyuan"], whole["datatrove"], strict=True)]
    print(f"datatrove takes {statistics.median(ratios):.1f} times as long")
    recall(planted)


def recall(planted: list[Case]) -> None:
    """Deduplication alone on the labelled set."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder / "in", 1, planted)
        everything = QualityRules(min_units=0, min_letter_share=0, max_repeated_ngram_share=1, min_stop_words=0)
        settings = CorpusSettings(quality=everything, pages=[], held_out_share=0, min_language_confidence=1)
        ours(folder / "in", folder / "ours", 1, settings)
        theirs(folder / "in", folder / "theirs", 1, filters=False)
        mine = kept_cases([folder / "ours" / "out" / "train.jsonl"], lambda row: row["extra"]["id"])
        others = kept_cases(sorted((folder / "theirs").glob("*/out/*.jsonl")), lambda row: row["id"])
    print(f"kaiyuan    {judged(planted, mine)}")
    print(f"datatrove  {judged(planted, others)}")


def memory(sizes: list[int], limit: int) -> None:
    """Each size in a process of its own that may have ``limit`` MiB of memory; the input is larger in the end."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            documents, total = write(Path(place) / "in", size, [])
            command = [sys.executable, __file__, "child", place, "--limit", str(limit)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
            usage = json.loads((Path(place) / "usage.json").read_text())
            print(f"{documents:9,} documents {total / 2**20:7.1f} MiB of text: peak {usage['peak'] / 2**20:6.1f} MiB "
                  f"resident, under a limit of {limit} MiB, {usage['seconds']:.0f}s", flush=True)  # fmt: skip


def child(place: Path, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit * 2**20, limit * 2**20))
    settings = CorpusSettings(rules=WEB, line_documents=20)
    seconds = clocked(lambda: ours(place / "in", place / "work", 1, settings, memory=8 * 2**20))
    # Not ru_maxrss: a child begins with its parent's.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    (place / "usage.json").write_text(json.dumps({"peak": peak, "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "growth", "peer", "memory", "recall", "child"])
    parser.add_argument("place", nargs="?", type=Path)
    parser.add_argument("--megabytes", type=float, nargs="*", default=[4])
    parser.add_argument("--factors", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=256, help="MiB")
    options = parser.parse_args()
    sizes = [round(size * 1e6) for size in options.megabytes]
    if options.what == "steps":
        steps(sizes[0], options.rounds)
    elif options.what == "growth":
        growth(sizes[0], options.factors, options.workers)
    elif options.what == "peer":
        peer(sizes[0], options.workers[-1], options.rounds)
    elif options.what == "memory":
        memory(sizes, options.limit)
    elif options.what == "recall":
        recall(cases(bases=40))
    else:
        child(options.place, options.limit)


if __name__ == "__main__":
    main()
