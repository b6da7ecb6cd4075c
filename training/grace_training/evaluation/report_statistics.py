"""The statistics of results.Group under weights, for many resamples at once. Pure.

R resamples of N items: `weights` (R, N) says how often each item was drawn, so that one matrix holds a bootstrap. With
weights of one they are scikit-learn's and SciPy's figures, which the tests hold them to.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from grace_training.evaluation.results import Group

Floats = NDArray[np.float64]


def size(group: Group) -> int:
    """How many items a group has."""
    return len(group.values) or len(next(iter(group.predicted.values()), ()))


def statistic(group: Group, weights: Floats) -> Floats:
    """(R,) the group's score under weights (R, N).

    NaN where a resample leaves nothing to judge: no positive among the labels, values that are all equal.
    """

    def column(values: tuple[float, ...]) -> Floats:
        return np.asarray(values, dtype=np.float64)

    match group.kind:
        case "mean":
            return np.asarray(weights @ column(group.values) / weights.sum(axis=1))
        case "perplexity":
            nats, tokens = column(group.predicted["nats"]), column(group.predicted["tokens"])
            return np.asarray(np.exp((weights @ nats) / (weights @ tokens)))
        case "spearman":
            return spearman(column(group.predicted["cosine"]), column(group.gold), weights)
        case "max_ap":
            gold = column(group.gold)
            each = [average_precision(column(values), gold, weights) for values in group.predicted.values()]
            return np.asarray(np.max(each, axis=0))
        case "v_measure":
            return v_measure(column(group.gold), column(group.predicted["cluster"]), weights)


def spearman(one: Floats, two: Floats, weights: Floats) -> Floats:
    """(R,) rank correlations of (N,) and (N,); equal values share their mean rank."""
    total = weights.sum(axis=1)
    a, b = (_ranks(values, weights) for values in (one, two))
    a -= ((weights * a).sum(axis=1) / total)[:, None]
    b -= ((weights * b).sum(axis=1) / total)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
        return np.asarray(np.where(spread > 0, (weights * a * b).sum(axis=1) / spread, np.nan))


def _ranks(values: Floats, weights: Floats) -> Floats:
    """(R, N) ranks among the drawn items, an item drawn twice holding two places."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    held = np.add.reduceat(weights[:, order], starts, axis=1)  # (R, distinct values)
    return np.asarray((np.cumsum(held, axis=1) - (held - 1) / 2)[:, place])


def average_precision(scores: Floats, gold: Floats, weights: Floats) -> Floats:
    """(R,) the sum over thresholds of precision times the gain in recall; equal scores are one threshold."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    drawn, found = np.cumsum(weights[:, order], axis=1), np.cumsum((weights * gold)[:, order], axis=1)
    drawn, found = drawn[:, last], found[:, last]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(drawn > 0, found / drawn, 0.0)
        recall = found / found[:, -1:]
        return np.asarray((precision * np.diff(recall, axis=1, prepend=0.0)).sum(axis=1))


def v_measure(gold: Floats, clusters: Floats, weights: Floats) -> Floats:
    """(R,) harmonic mean of homogeneity and completeness."""
    G, g = np.unique(gold, return_inverse=True)
    C, c = np.unique(clusters, return_inverse=True)
    cells = np.zeros((len(gold), len(G) * len(C)))
    cells[np.arange(len(gold)), g * len(C) + c] = 1.0
    joint = (weights @ cells).reshape(-1, len(G), len(C)) / weights.sum(axis=1)[:, None, None]
    of_gold, of_clusters, of_both = _entropy(joint.sum(axis=2)), _entropy(joint.sum(axis=1)), _entropy(joint)
    shared = of_gold + of_clusters - of_both
    # One class, or one cluster, is homogeneous, or complete, by definition.
    homogeneity = np.divide(shared, of_gold, out=np.ones_like(shared), where=of_gold > 1e-12)
    completeness = np.divide(shared, of_clusters, out=np.ones_like(shared), where=of_clusters > 1e-12)
    both = homogeneity + completeness
    return np.asarray(np.divide(2 * homogeneity * completeness, both, out=np.zeros_like(both), where=both > 1e-12))


def _entropy(p: Floats) -> Floats:
    flat = p.reshape(len(p), -1)
    return np.asarray(-(flat * np.log(flat, out=np.zeros_like(flat), where=flat > 0)).sum(axis=1))
