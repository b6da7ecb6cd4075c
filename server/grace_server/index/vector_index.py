"""The protocol behind dense search: FAISS on this machine, or a distributed engine.

An index knows labels and vectors, nothing else; SQLite knows what a label stands for. N vectors, H dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from grace_server.index.vectors import Floats, Labels


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Answer to one query, best first."""

    labels: Labels  # (k,) or fewer
    scores: Floats  # (k,) inner products (of unit vectors: cosines)
    exact: bool  # True only if no other label could belong here


class VectorIndex(Protocol):
    """Labels with their vectors. Searches may run at any time, from any thread, also during writes."""

    def add(self, labels: Labels, vectors: Floats) -> None:
        """Add (N,) new labels with their (N, H) vectors. A label is never added twice."""

    def remove(self, labels: Labels) -> None:
        """Forget (N,) labels; those it does not have are passed over."""

    def search(self, queries: Floats, k: int, *, allowed: Labels | None = None) -> list[Neighbours]:
        """The k nearest of each of (Q, H) queries, among `allowed` labels only if given.

        Fewer than k come back only where there are no more.
        """

    def labels(self) -> Labels:
        """All labels, ascending."""

    def __len__(self) -> int:
        """How many labels it has."""

    def close(self) -> None:
        """Free what it holds. It cannot be used afterwards."""

    def discard(self) -> None:
        """Remove what is kept of it outside the collection's folder, which is deleted. After `close`."""


MakeVectorIndex = Callable[[str, int], VectorIndex]  # a collection's own id, dimensions
Fetch = Callable[[Labels], tuple[Labels, Floats]]  # (N,) labels -> those still stored, and their vectors

RECONCILED_AT_ONCE = 4_096  # labels


def reconcile(index: VectorIndex, live: Labels, fetch: Fetch) -> None:
    """Make an index that was kept elsewhere hold exactly the `live` labels."""
    held = index.labels()
    index.remove(np.setdiff1d(held, live, assume_unique=True))
    missing = np.setdiff1d(live, held, assume_unique=True)
    for start in range(0, len(missing), RECONCILED_AT_ONCE):
        index.add(*fetch(missing[start : start + RECONCILED_AT_ONCE]))
