"""A task's score from its items, and how far it could have come out otherwise. Pure; the bootstrap is percentile.

N items, R resamples, S seeds.

Draws come from a generator that is seeded by the items' ids. Two runs over the same items are therefore drawn in step,
and the difference of their draws is a paired bootstrap; runs over different items are drawn independently.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import numpy as np

from grace_training.evaluation.report_statistics import Floats, size, statistic
from grace_training.evaluation.results import Items

RESAMPLES = 1000
LEVEL = 0.95
_CELLS = 2_000_000  # of the matrix of weights, 16 MB


class Interval(NamedTuple):
    """Ends of a confidence interval at `LEVEL`."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference with this interval is one."""
        return self.low > 0 or self.high < 0


def score(items: Items) -> float:
    """A task's score: the mean of its groups' statistics."""
    return float(np.mean([statistic(group, np.ones((1, size(group))))[0] for group in items.groups]))


def draws(items: Items, resamples: int = RESAMPLES) -> Floats:
    """(R,) the task's score over resampled items, in step with any other run over the same items."""
    drawn = np.zeros((len(items.groups), resamples))
    for row, group in zip(drawn, items.groups, strict=True):
        count = size(group)
        # The same order whichever way a run met its items.
        order = np.argsort(np.asarray(group.ids)) if group.ids else np.arange(count)
        name = "\n".join((items.task, group.name, str(count), *sorted(group.ids)))
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        at_once = max(1, _CELLS // count)
        for start in range(0, resamples, at_once):
            some = min(at_once, resamples - start)
            weights = np.empty((some, count))
            weights[:, order] = rng.multinomial(count, np.full(count, 1 / count), size=some)
            row[start : start + some] = statistic(group, weights)
    return np.asarray(drawn.mean(axis=0))


def over_seeds(
    by_seed: Floats,  # (S, R) draws of each seed's score
    rng: np.random.Generator,
) -> Floats:
    """(R,) draws of the mean over seeds, the seeds drawn with replacement too.

    A mean of S drawn seeds varies by (S-1)/S too little; it is widened by that. What remains too narrow with two or
    three seeds cannot be mended by arithmetic, so a table says how many there were.
    """
    S, R = by_seed.shape
    if S == 1:
        return np.asarray(by_seed[0])
    centre = by_seed.mean(axis=0)
    picks = rng.integers(0, S, (S, R))
    mean = np.take_along_axis(by_seed, picks, axis=0).mean(axis=0)
    return np.asarray(centre + (mean - centre) * math.sqrt(S / (S - 1)))


def interval(drawn: Floats, level: float = LEVEL) -> Interval:
    """The percentile interval of drawn values (R,); NaNs are left out."""
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
