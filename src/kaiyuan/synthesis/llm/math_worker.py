"""Compares pairs of formulas with math-verify: a JSON list of two a line in, 1 or 0 a line out. Runs as a process."""

from __future__ import annotations

import json
import resource
import sys

_MEMORY, _LONGEST = 1 << 31, 400


def compare(first: str, second: str) -> bool:
    """Only LaTeX is parsed: math-verify's reader of plain expressions is built on Python's evaluation."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    one, two = (parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (first, second))
    return bool(one and two and verify(one, two, timeout_seconds=None))


def main() -> None:
    """Answer until the input ends. What raises is not the same."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin:
        try:
            first, second = (str(text)[:_LONGEST] for text in json.loads(line))
            same = compare(first, second)
        except Exception:
            same = False
        print(int(same), flush=True)


if __name__ == "__main__":
    main()
