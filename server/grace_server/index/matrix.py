"""Rows compared one by one: the index of a small collection, and of what came since a large one was built.

A `Matrix` is a value: adding and removing give a new one, so that a search under way keeps the one it began with.
Neighbouring versions share their rows. N rows, Q queries, H dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import faiss as faiss_with_stubs
import numpy as np
import numpy.typing as npt

from grace_server.index.vectors import Floats, Labels

faiss: Any = faiss_with_stubs  # its own stubs lack half of what it has (1.15)

Mask = npt.NDArray[np.bool_]

GROWTH = 1.5
SMALLEST = 256  # rows


@dataclass(frozen=True, slots=True, eq=False)
class Living:
    """Which rows may be found, as FAISS wants it: one bit a row. Made once, used by many searches."""

    mask: Mask  # (N,)
    number: int
    bits: npt.NDArray[np.uint8]  # FAISS keeps a bare pointer to it
    selector: Any

    @classmethod
    def of(cls, mask: Mask) -> Living:
        """The rows a mask lets through."""
        bits = np.packbits(mask, bitorder="little")
        return cls(mask, int(np.count_nonzero(mask)), bits, faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(bits)))


@dataclass(slots=True, eq=False)
class _Rows:
    """Storage shared by versions of a matrix. Rows below `used` never change."""

    labels: Labels  # (capacity,)
    vectors: Floats  # (capacity, H)
    used: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The first `size` rows of a storage, but for the dead ones."""

    rows: _Rows
    size: int
    alive: Mask = field(default_factory=lambda: np.empty(0, np.bool_))  # (size,)
    dead: int = 0

    @classmethod
    def empty(cls, dimensions: int, *, capacity: int = 0) -> Matrix:
        """No rows, room for `capacity`."""
        return cls(_Rows(np.empty(capacity, np.int64), np.empty((capacity, dimensions), np.float32)), 0)

    def __len__(self) -> int:
        return self.size - self.dead

    @property
    def labels(self) -> Labels:
        """(N,) labels of the living rows, in the order they came."""
        return self.rows.labels[: self.size][self.alive]

    @property
    def vectors(self) -> Floats:
        """(N, H) the living rows, in the order of `labels`. A copy if some are dead."""
        rows = self.rows.vectors[: self.size]
        return rows[self.alive] if self.dead else rows

    def chunks(self, rows: int) -> Iterator[tuple[Labels, Floats]]:
        """The living rows, so many at a time."""
        for start in range(0, self.size, rows):
            some = slice(start, min(start + rows, self.size))
            keep = self.alive[some]
            yield self.rows.labels[some][keep], self.rows.vectors[some][keep]

    def with_rows(self, labels: Labels, vectors: Floats) -> Matrix:
        """The same and (N,) more labels with their (N, H) vectors. Only the newest version is added to."""
        size = self.size + len(labels)
        rows = self.rows
        if rows.used != self.size or size > len(rows.labels):
            rows = self._grown(size)
        rows.labels[self.size : size] = labels
        rows.vectors[self.size : size] = vectors
        rows.used = size
        return Matrix(rows, size, np.concatenate([self.alive, np.ones(len(labels), np.bool_)]), self.dead)

    def without(self, labels: Labels) -> Matrix:
        """The same without some labels. Copies what is left once a third of the rows is dead."""
        doomed = self.alive & np.isin(self.rows.labels[: self.size], labels)
        if not doomed.any():
            return self
        alive = self.alive & ~doomed
        less = Matrix(self.rows, self.size, alive, self.dead + int(doomed.sum()))
        if less.dead * 3 <= less.size or less.size <= SMALLEST:
            return less
        dimensions = self.rows.vectors.shape[1]
        return Matrix.empty(dimensions, capacity=len(less)).with_rows(less.labels, less.vectors)

    def search(self, queries: Floats, k: int, *, allowed: Labels | None = None) -> tuple[Labels, Floats]:
        """Labels and scores (Q, k') of the nearest living rows, best first.

        k' is min(k, how many may be found), or more: all rows that score as the k-th does are among them.
        """
        if allowed is not None:
            keep = self.alive & np.isin(self.rows.labels[: self.size], allowed)
            return nearest_of(queries, self.rows.labels, self.rows.vectors[: self.size], k, np.flatnonzero(keep))
        return nearest(queries, self.rows.labels, self.rows.vectors[: self.size], k, alive=self.alive, dead=self.dead)

    def _grown(self, size: int) -> _Rows:
        capacity = max(size, int(self.size * GROWTH), SMALLEST)
        rows = _Rows(np.empty(capacity, np.int64), np.empty((capacity, self.rows.vectors.shape[1]), np.float32))
        rows.labels[: self.size] = self.rows.labels[: self.size]
        rows.vectors[: self.size] = self.rows.vectors[: self.size]
        return rows


def nearest(
    queries: Floats,  # (Q, H)
    labels: Labels,  # (N,) or more
    vectors: Floats,  # (N, H)
    k: int,
    *,
    alive: Mask | None = None,  # (N,)
    dead: int = 0,
) -> tuple[Labels, Floats]:
    """Labels and inner products (Q, k') of the nearest rows, by comparing all of them; k' as of `Matrix.search`."""
    size = len(vectors)
    queries, vectors = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(vectors)
    selector = bits = None
    if dead and alive is not None:
        bits = np.packbits(alive, bitorder="little")  # must outlive the search: FAISS keeps a bare pointer
        selector = faiss.IDSelectorBitmap(size, faiss.swig_ptr(bits))

    def top(reach: int, positions: Labels, scores: Floats) -> None:
        faiss.knn_inner_product(
            faiss.swig_ptr(queries),
            faiss.swig_ptr(vectors),
            queries.shape[1],
            len(queries),
            size,
            reach,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(positions),
            selector,
        )

    positions, scores = _with_ties(top, len(queries), k, size - dead)
    return labels[positions], scores


def nearest_of(
    queries: Floats,  # (Q, H)
    labels: Labels,  # (N,) or more
    vectors: Floats,  # (N, H) contiguous
    k: int,
    positions: Labels,  # (M,) which of them
) -> tuple[Labels, Floats]:
    """Labels and inner products (Q, k') of the nearest among some rows; k' as of `Matrix.search`."""
    if len(queries) > 1:  # many queries are worth a copy, one is answered sooner where the rows are
        return nearest(queries, labels[positions], vectors[positions], k)
    # Names for all of them: FAISS gets bare pointers.
    queries, positions = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(positions, np.int64)

    def top(reach: int, found: Labels, scores: Floats) -> None:
        faiss.knn_inner_products_by_idx(
            faiss.swig_ptr(queries),
            faiss.swig_ptr(vectors),
            faiss.swig_ptr(positions),
            queries.shape[1],
            len(queries),
            len(vectors),
            len(positions),
            reach,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(found),
            0,  # every query has the same positions
        )

    found, scores = _with_ties(top, len(queries), k, len(positions))
    return labels[found], scores


def _with_ties(
    top: Callable[[int, Labels, Floats], None],  # writes the `reach` best into (Q, reach) positions and scores
    queries: int,
    k: int,
    rows: int,  # how many may be found
) -> tuple[Labels, Floats]:
    """Positions and scores (Q, k') of the k best rows and of all that score as the k-th does.

    FAISS keeps any of the rows that tie at the end, whichever way its heap falls: a longer list need not begin with the
    shorter one, and pages would overlap.
    """
    k = min(k, rows)
    reach = min(k + 1, rows) if k > 0 else 0
    while True:
        positions, scores = np.empty((queries, reach), np.int64), np.empty((queries, reach), np.float32)
        if reach:
            top(reach, positions, scores)
        if reach == rows or not reach or (scores[:, k - 1] > scores[:, -1]).all():
            return positions, scores
        reach = min(16 * reach, rows)  # each time is a search of its own: of a million rows at most four more
