"""When requests come, and how long they took: the pure parts of load and soak."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


def poisson(rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Moments in [0, seconds) of independent arrivals, `rate` a second on average, whatever became of earlier ones."""
    moments, now = [], rng.expovariate(rate)
    while now < seconds:
        moments.append(now)
        now += rng.expovariate(rate)
    return moments


def quantile(values: Sequence[float], share: float) -> float | None:
    """The least value that `share` of all do not exceed: one that was seen, not one between two. None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth of something over time, with its 95 % interval, per hour."""

    per_hour: float
    low: float
    high: float


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope:
    """Theil-Sen's median of pairwise slopes: a burst that comes and goes does not tilt it.

    Values should be averages over a minute or so, since the interval takes them as independent.
    """
    found = stats.theilslopes(np.asarray(values, dtype=np.float64), np.asarray(seconds, dtype=np.float64), 0.95)
    return Slope(*(3600 * float(x) for x in (found[0], found[2], found[3])))
