"""How sure an accuracy is."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(correct: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a share: ``correct`` of ``count`` independent trials.

    Unlike the normal approximation it stays within 0 and 1 and is honest for few trials and for shares near 0 or 1.
    Without any trial everything is possible: (0, 1).
    """
    if not 0 <= correct <= count:
        raise ValueError(f"{correct} of {count} is not a share")
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = correct / count, z * z / count
    centre = (share + weight / 2) / (1 + weight)
    margin = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return max(0.0, centre - margin), min(1.0, centre + margin)
