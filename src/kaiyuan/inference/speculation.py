"""Guessing the next tokens from the text itself: where its last few tokens stood before, the same may follow again.

Exact: every guess is computed and sampled as if it had not been guessed, and kept only if the sample agrees. Texts
that repeat themselves (code, quotations, JSON) gain several tokens a step, others lose a little work.
"""

from __future__ import annotations

from collections.abc import Sequence


def ngram_draft(
    tokens: Sequence[int], count: int, longest: int = 4, shortest: int = 2, window: int = 4096
) -> list[int]:
    """Up to ``count`` tokens that followed the latest earlier occurrence of the last ``longest`` tokens within
    ``window``, or of fewer, down to ``shortest``; none if there is no occurrence.
    """
    recent = list(tokens[-window:])
    for size in range(min(longest, len(recent) - 1), shortest - 1, -1):
        pattern = recent[-size:]
        for start in range(len(recent) - size - 1, -1, -1):
            if recent[start] == pattern[0] and recent[start : start + size] == pattern:
                return recent[start + size : start + size + count]
    return []
