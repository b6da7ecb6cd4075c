"""What rank a document would have in its index if something were left out: searches again, without a model call.

Leaving out a sentence of the document moves that document alone; leaving out one of the query moves everybody, so the
index is asked once more for each, all at once. Ranks beyond the first RANKED are not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grace.pooling import unit
from grace_server.index.collection import Collection
from grace_server.index.vector_index import Neighbours
from grace_server.index.vectors import Floats
from grace_server.sides import Side

RANKED = 1_000
TIE = 5e-7  # scores nearer than this are equal: sums of float32 in another order


@dataclass(frozen=True, slots=True)
class Ranks:
    """Ranks from 1 among all documents; None: beyond the first RANKED, or nothing is left to rank."""

    rank: int | None
    without_query: tuple[int | None, ...]  # a rank for each segment of the query
    without_document: tuple[int | None, ...]  # and for each of the document
    exact: bool  # no other document could have been overlooked


def ranks(
    collection: Collection,
    query: Side,
    label: int,
    *,
    without_document: Sequence[float | None],  # its scores without each of its segments
) -> Ranks:
    """The rank of a document for a query, and without each of their segments. Blocking."""
    rest = [without(query, [i]) for i in range(len(query.parts))]
    asked = [query.vector, *(vector for vector in rest if vector is not None)]
    now, *others = collection.dense(np.stack(asked), RANKED)
    found = iter(others)
    of_query = [None if vector is None else place(next(found), label) for vector in rest]
    return Ranks(
        place(now, label),
        tuple(of_query),
        tuple(None if score is None else place_at(now, label, score) for score in without_document),
        exact=all(neighbours.exact for neighbours in (now, *others)),
    )


def without(side: Side, out: Sequence[int]) -> Floats | None:
    """(D,) the side's vector at length 1 without some segments; None if nothing with a direction is left."""
    rows = np.asarray(side.rows, dtype=np.float64)[:, : len(side.vector)]
    rest = np.delete(rows, list(out), axis=0).sum(axis=0)
    if np.linalg.norm(rest) < 1e-5 * np.linalg.norm(rows.sum(axis=0)):
        return None
    return unit(rest).astype(np.float32)


def place(found: Neighbours, label: int) -> int | None:
    """The rank of a label in an answer; None if it is not in it."""
    at = np.flatnonzero(found.labels == label)
    return int(at[0]) + 1 if len(at) else None


def place_at(found: Neighbours, label: int, score: float) -> int | None:
    """The rank of a label if it had another score; None if that is below an answer that is not the whole index."""
    at = np.flatnonzero(found.labels == label)
    rank = 1 + ahead(found.scores, int(at[0]) if len(at) else len(found.labels), score)
    others = len(found.labels) - len(at)
    return rank if rank <= others or len(found.labels) < RANKED else None


def ahead(scores: npt.NDArray[np.floating], at: int, score: float) -> int:
    """How many of (N,) scores, best first, would stay before the one at place `at` if that were `score`.

    Equal ones keep their order, as in a search; NaN is before nobody.
    """
    more = scores > score + TIE
    equal = np.abs(scores - score) <= TIE
    return int(np.delete(more, at if at < len(scores) else []).sum() + equal[:at].sum())
