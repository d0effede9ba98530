"""Precision, recall and speed of the detectors of personal data, beside those of other libraries.

    python benchmarks/privacy.py
    python -m venv peers && peers/bin/pip install datatrove regex presidio-analyzer py-data-juicer aiohttp
    python benchmarks/privacy.py --peer-python peers/bin/python

On the labelled texts of tests/corpus/data (ours, synthetic, English and Chinese). A find counts if it has the kind of
a label and the two share at least half of what they cover together; ``--exact`` asks for the very same span. Speed is
measured on those texts, 20 to a document, and on a sample of the demo corpus, one process each, in CPU time.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kaiyuan.corpus.pii import KINDS, Finding, PrivacySettings, anonymize, find
from kaiyuan.corpus.pii.score import Case, Score, read_cases, score
from kaiyuan.corpus.sources import demo_documents
from privacy_peers import timed

DATA = Path(__file__).parent.parent / "tests" / "corpus" / "data"
PEERS = ("datatrove", "datatrove, all IPs", "data-juicer", "data-juicer clean", "presidio")
LANGUAGES = ("en", "zh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cases", type=Path, nargs="+", default=[DATA / "privacy.jsonl", DATA / "privacy_unseen.jsonl"]
    )
    parser.add_argument("--peer-python", type=Path, help="a Python that has the other libraries")
    parser.add_argument("--exact", action="store_true", help="a find counts only if it is the very span of a label")
    parser.add_argument("--demo-documents", type=int, default=150)
    args = parser.parse_args()
    files = [read_cases(path) for path in args.cases]
    cases = [case for some in files for case in some]
    corpora = {"the cases": _joined(cases), "demo corpus": _sample(args.demo_documents)}
    results = {"kaiyuan": _ours(cases, corpora)}
    for peer in PEERS if args.peer_python else ():
        results[peer] = _peer(args.peer_python, peer, cases, corpora)
    overlap = 1.0 if args.exact else 0.5
    start = 0
    for path, some in zip(args.cases, files, strict=True):
        positive = sum(bool(case.spans) for case in some)
        print(f"\n{path.name}: {positive} texts with personal data, {len(some) - positive} without")
        _print_table(some, {peer: _part(result, start, len(some)) for peer, result in results.items()}, overlap)
        start += len(some)
    _print_speed(results, corpora)


def _joined(cases: Sequence[Case], together: int = 20) -> list[str]:
    texts = [case.text for case in cases]
    return ["\n".join(texts[start : start + together]) for start in range(0, len(texts), together)]


def _sample(count: int) -> list[str]:
    documents = list(demo_documents())
    return [document.text for document in random.Random(0).sample(documents, min(count, len(documents)))]


def _ours(cases: Sequence[Case], corpora: dict[str, list[str]]) -> dict[str, Any]:
    settings = PrivacySettings(kinds=list(KINDS))
    found = [find(case.text, settings) for case in cases]
    seconds = {name: timed(anonymize, texts) for name, texts in corpora.items()}
    return {"version": "", "note": "names switched on for precision and recall, off (the default) for speed",
            "found": found, "seconds": seconds}  # fmt: skip


def _peer(python: Path, peer: str, cases: Sequence[Case], corpora: dict[str, list[str]]) -> dict[str, Any]:
    request = {"peer": peer, "cases": [case.text for case in cases], "corpora": corpora}
    script = Path(__file__).with_name("privacy_peers.py")
    done = subprocess.run(
        [str(python), str(script)], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"missing": f"it failed: {last}"}
    result = json.loads(done.stdout)
    if "missing" not in result:
        result["found"] = [[Finding(start, end, kind, peer) for start, end, kind in found] for found in result["found"]]
    return result


def _part(result: dict[str, Any], start: int, count: int) -> dict[str, Any]:
    return result if "missing" in result else {**result, "found": result["found"][start : start + count]}


def _print_table(cases: Sequence[Case], results: dict[str, dict[str, Any]], overlap: float) -> None:
    present = {peer: score(cases, result["found"], overlap) for peer, result in results.items() if "found" in result}
    print(f"{'precision / recall':22}" + "".join(f"{peer:>20}" for peer in present))
    rows = [(kind, language) for kind in KINDS for language in LANGUAGES]
    for kind, language in rows:
        count = present["kaiyuan"].get((kind, language), Score()).labelled
        cells = [_cell(scores.get((kind, language)), _covers(scores, kind)) for scores in present.values()]
        print(f"{kind:9} {language}  ({count:3})  " + "".join(f"{cell:>20}" for cell in cells))
    for language in LANGUAGES:
        totals = [_sum([scores[key] for key in scores if key[1] == language]) for scores in present.values()]
        print(
            f"{'all kinds':9} {language}  ({totals[0].labelled:3})  " + "".join(f"{_cell(t, True):>20}" for t in totals)
        )


def _covers(scores: dict[tuple[str, str], Score], kind: str) -> bool:
    """Whether a library knows a kind at all: it has found one in some language, rightly or not."""
    return any(value.found for (known, _), value in scores.items() if known == kind)


def _cell(value: Score | None, covered: bool) -> str:
    if value is None or not covered:
        return "-"
    shown = ["none" if math.isnan(share) else f"{share:.2f}" for share in (value.precision, value.recall)]
    return " / ".join(shown)


def _sum(scores: Sequence[Score]) -> Score:
    total = Score()
    for one in scores:
        total.labelled += one.labelled
        total.found += one.found
        total.labelled_hit += one.labelled_hit
        total.found_right += one.found_right
    return total


def _print_speed(results: dict[str, dict[str, Any]], corpora: dict[str, list[str]]) -> None:
    print(f"\n{'MB/s':22}" + "".join(f"{name:>16}" for name in corpora) + "  ratio to kaiyuan")
    sizes = {name: sum(len(text.encode()) for text in texts) / 1e6 for name, texts in corpora.items()}
    for peer, result in results.items():
        if "missing" in result:
            print(f"{peer:22}not installed: {result['missing']}")
            continue
        speeds = [sizes[name] / result["seconds"][name] for name in corpora]
        ours = [sizes[name] / results["kaiyuan"]["seconds"][name] for name in corpora]
        ratios = ", ".join(f"{speed / our:.2f}" for speed, our in zip(speeds, ours, strict=True))
        print(f"{peer:22}" + "".join(f"{speed:16.2f}" for speed in speeds) + f"  {ratios}")
    for peer, result in results.items():
        print(f"  {peer} {result.get('version', '')}: {result.get('note', result.get('missing'))}")


if __name__ == "__main__":
    main()
