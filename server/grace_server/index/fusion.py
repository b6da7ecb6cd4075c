"""Hybrid search: fusing ranks. Pure functions; N candidates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grace_server.index.vector_index import Neighbours

RANK_CONSTANT = 20.0  # the usual 60 flattens the heads of the lists; chosen on three collections, see docs/search.md


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
