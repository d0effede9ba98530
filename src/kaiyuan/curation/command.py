"""The commands ``kaiyuan curate`` and ``kaiyuan review``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources.spec import Source
from kaiyuan.curation import asking
from kaiyuan.curation.asking import ModelTier
from kaiyuan.curation.balance import table
from kaiyuan.curation.build import Selection, build, describe
from kaiyuan.curation.judges import Judges, load_judges
from kaiyuan.curation.log import KEEP, Decision, DecisionLog, Standing, read_log, standings
from kaiyuan.curation.pairs import Pair, read_pairs
from kaiyuan.curation.places import CANDIDATES, DECISIONS, PAIRS
from kaiyuan.curation.rules import NEAR, check
from kaiyuan.curation.sample import Sample, read_samples
from kaiyuan.errors import DataError
from kaiyuan.files import write_json, write_jsonl
from kaiyuan.settings import load_settings


def extract_into(folder: Path, sources: Sequence[str]) -> str:
    """Write ``candidates.jsonl`` and ``extraction.json`` from all ``sources``."""
    from kaiyuan.curation.extract.run import Extracted, extract

    counts = Extracted()
    found = (item.row() for item in extract(map(Source.of, sources), counts))
    total = write_jsonl(folder / CANDIDATES, _some(found, "candidates", sources, counts.left_out))
    write_json(folder / "extraction.json", counts.as_json())
    methods = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.samples.items()))
    reasons = [f"{count:8,}  {reason}" for reason, count in counts.left_out.most_common()]
    first = f"{total:,} candidates ({methods}), {counts.left_out.total():,} left out"
    return "\n".join([first, *reasons, str(folder / CANDIDATES)])


def _some(rows: Iterable[Any], what: str, places: Iterable[object], left_out: Counter[str]) -> Iterator[Any]:
    """``rows``; a ``DataError`` if there are none, so that what was there before is not lost to a slip."""
    found = False
    for row in rows:
        found = True
        yield row
    if not found:
        why = ", ".join(f"{reason} {number:,}" for reason, number in left_out.most_common())
        raise DataError(f"{', '.join(map(str, places))}: no {what} in it" + (f" (left out: {why})" if why else ""))


def check_folder(folder: Path, near: float = NEAR) -> str:
    """Decide by rules about every candidate; what the log says already is not said again."""
    _require(folder, CANDIDATES)
    with DecisionLog(folder / DECISIONS) as log:
        known = standings(log.decisions)
        found = check(read_samples(folder / CANDIDATES), known, near)
        new = [item for item in found if not _said(item, known.get(item.sample))]
        log.append(new)
    reasons = Counter(reason for item in new for reason in item.reasons)
    lines = [f"{len(new):,} samples checked, {sum(bool(item.reasons) for item in new):,} refused"]
    return "\n".join([*lines, *(f"{count:8,}  {reason}" for reason, count in reasons.most_common())])


def grade_folder(folder: Path, config: Path, limit: int, only_estimate: bool) -> str:
    """Have the critics of a config grade every candidate that passed the rules."""
    from kaiyuan.curation.critique import Critique

    judges = load_judges(config)
    return _asked(Critique(judges), judges, folder, limit, only_estimate)


def _asked(tier: ModelTier, judges: Judges, folder: Path, limit: int, only_estimate: bool) -> str:
    labels = tier.tier == "label"
    _require(folder, CANDIDATES, *([PAIRS] if labels else []))

    def items() -> Iterator[Sample | Pair]:
        return _items(folder, labels)

    if only_estimate:
        return asking.dry_run(tier, folder, items, limit, judges.run.tokenizer)
    return asking.describe(tier.done, *asking.run(tier, folder, items, limit))


def _require(folder: Path, *names: str) -> None:
    """Refuse a folder that has none of the files, before anything is written into it."""
    if not any((folder / name).is_file() for name in names):
        raise DataError(f"{folder}: has no {' or '.join(names)}; make one with kaiyuan curate extract")


def label_folder(folder: Path, config: Path, limit: int, only_estimate: bool, every: bool) -> str:
    """Have the labeller of a config label the candidates that passed the rules and have no label."""
    from kaiyuan.curation.labelling import Labelling

    judges = load_judges(config)
    return _asked(Labelling(judges, every), judges, folder, limit, only_estimate)


def label_by_scorer(folder: Path, scorer: Path, min_confidence: float) -> str:
    """Have a scorer label the candidates without a label."""
    from kaiyuan.curation.labelling import ByScorer
    from kaiyuan.curation.labelling import label_by_scorer as label

    done = label(folder, _items(folder, pairs=True), ByScorer(scorer, min_confidence))
    return asking.describe("labelled", *done)


def teach_scorer(folder: Path, out: Path) -> str:
    """Train a scorer of categories from the labels of a folder; writes ``out`` and says what it is worth."""
    from kaiyuan.curation.labelling import teach

    scorer = teach(folder, _items(folder, pairs=True))
    scorer.save(out)
    found = scorer.report["dimensions"]["category"]
    return f"{found['labels']:,} labels: {found['summary']} (of those held out)\n{out}"


def check_pair_files(folder: Path, paths: Sequence[Path]) -> str:
    """Take in the pairs of files (without any: those of the folder), decide about each by rules, and report."""
    from kaiyuan.curation.lengths import describe as describe_lengths
    from kaiyuan.curation.lengths import length_bias
    from kaiyuan.curation.pairs import check_pairs, collect
    from kaiyuan.curation.preferences import label_of

    left_out: Counter[str] = Counter()
    if paths:
        found = (pair.row() for pair in collect(paths, left_out))
        write_jsonl(folder / PAIRS, _some(found, "pairs", paths, left_out))
    elif not (folder / PAIRS).is_file():
        raise DataError(f"{folder}: has no {PAIRS}; name files of pairs to take in")
    with DecisionLog(folder / DECISIONS) as log:
        known = standings(log.decisions)
        decisions = list(check_pairs(read_pairs(folder / PAIRS)))
        log.append(item for item in decisions if not _said(item, known.get(item.sample)))
    passed = {item.sample for item in decisions if item.verdict == KEEP}
    reasons = Counter(reason for item in decisions for reason in item.reasons)
    labels: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    lengths = []
    for pair in read_pairs(folder / PAIRS):
        label = label_of(pair, known.get(pair.hash, Standing()))
        labels[label] += 1
        if pair.hash in passed:
            kept[label] += 1
            lengths.append(pair.lengths)
    return "\n".join([
        f"{len(decisions):,} pairs, {left_out.total():,} left out, {len(decisions) - len(passed):,} refused",
        *(f"{count:8,}  {reason}" for reason, count in (left_out + reasons).most_common()), "",
        describe_lengths(length_bias(lengths)), "", table(labels, kept),
    ])  # fmt: skip


def trace_sample(folder: Path, name: str) -> str:
    """Every decision about a sample or pair, in order, with its number in the log; ``name`` begins its hash."""
    found = [item for item in enumerate(read_log(folder / DECISIONS), 1) if item[1].sample.startswith(name)]
    samples = {decision.sample for _, decision in found}
    if len(samples) != 1:
        problem = "more than one begins so" if samples else "the log knows nothing of it"
        raise DataError(f"{folder}: {name!r}: {problem}; give the hash of a sample as rows of a version have it")
    return "\n".join([
        *samples,
        *(f"{number:8,}  {decision.time[:19]}  {decision.summary}  [{decision.version}]" for number, decision in found),
    ])  # fmt: skip


def _said(decision: Decision, standing: Standing | None) -> bool:
    return bool(standing and standing.rules and standing.rules.says_the_same_as(decision))


def _items(folder: Path, pairs: bool) -> Iterator[Sample | Pair]:
    """The candidates and, if asked for, the pairs of a folder, which may have only one of the two."""
    if not pairs or (folder / CANDIDATES).exists() or not (folder / PAIRS).exists():
        yield from read_samples(folder / CANDIDATES)
    if pairs:
        yield from read_pairs(folder / PAIRS)


def build_version(folder: Path, name: str, settings: Path | None, at: int | None) -> str:
    """Build a version with the ``Selection`` of a TOML file."""
    return describe(build(folder, name, selection_of(settings), at))


def selection_of(path: Path | None) -> Selection:
    return Selection() if path is None else load_settings(Selection, path)
