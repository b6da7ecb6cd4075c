"""Hybrid search: fusing ranks. Pure functions; N candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grace_server.index.vector_index import Neighbours

RANK_CONSTANT = 20.0  # the usual 60 flattens the heads of the lists; chosen on three collections, see docs/search.md
FUSION_DEPTH = 200  # best of each list that are fused; who asks for more hits gets them from deeper stages
STAGES = (FUSION_DEPTH, 400, 800, 1_600, 3_200, 6_400, 10_000)


@dataclass(frozen=True, slots=True, eq=False)
class Fused:
    """Candidates of two lists or more in one order, and of each how deep the lists were that gave it its score."""

    neighbours: Neighbours
    depths: dict[int, int]  # by label


def depth_for(reach: int) -> int:
    """How much of each list it takes to put the first `reach` candidates in order."""
    return next((stage for stage in STAGES if stage >= reach), reach)


def fuse_in_stages(lists: Sequence[Neighbours], *, weights: Sequence[float], reach: int) -> Fused:
    """The first `reach` candidates or more, in an order that does not depend on how many are asked for.

    Deeper lists would give candidates new scores, and so the documents of earlier pages new places: a document would be
    on two pages, and another on none. So the first 200 are those of the best 200 of each list and keep their scores;
    only those after them come from longer ones. That holds where a longer list begins as the shorter one did: where an
    index is not exact, more hits are looked for in more places.
    """
    scores: dict[int, float] = {}
    depths: dict[int, int] = {}
    for stage in (*(stage for stage in STAGES if stage < reach), depth_for(reach)):
        heads = [Neighbours(one.labels[:stage], one.scores[:stage], one.exact) for one in lists]
        fused = fuse(heads, weights=weights)
        for label, score in zip(fused.labels.tolist(), fused.scores.tolist(), strict=True):
            if len(scores) == stage:
                break
            if label not in scores:
                scores[label], depths[label] = score, stage
    exact = all(neighbours.exact for neighbours in lists)
    order = Neighbours(np.array(list(scores), np.int64), np.array(list(scores.values()), np.float32), exact)
    return Fused(order, depths)


def fuse(lists: Sequence[Neighbours], *, weights: Sequence[float], rank_constant: float = RANK_CONSTANT) -> Neighbours:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009).

    The score of a document is the sum of weight / (rank_constant + rank) over the lists, ranks from 1.
    A document that a list does not hold gets nothing from it. Ties go to the smaller label.
    """
    scores: dict[int, float] = {}
    for neighbours, weight in zip(lists, weights, strict=True):
        for rank, label in enumerate(neighbours.labels.tolist(), start=1):
            scores[label] = scores.get(label, 0.0) + share(rank, weight, rank_constant=rank_constant)
    order = sorted(scores, key=lambda label: (-scores[label], label))
    return Neighbours(
        np.array(order, dtype=np.int64),
        np.array([scores[label] for label in order], dtype=np.float32),
        exact=all(neighbours.exact for neighbours in lists),
    )


def share(rank: int, weight: float, *, rank_constant: float = RANK_CONSTANT) -> float:
    """What a place in one list adds to the fused score, ranks from 1."""
    return weight / (rank_constant + rank)
