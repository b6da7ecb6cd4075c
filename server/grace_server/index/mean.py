"""The direction that all vectors of a collection share: their mean. Derived from the truth, never stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grace.attribution import Floats as Doubles
from grace_server.index import reading
from grace_server.index.store import Connection

STALE_SHARE = 0.01  # of the documents: after that many changes the mean is computed again


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """The mean of the stored vectors of all searchable documents, as they were after change `seq`."""

    vector: Doubles  # (D,)
    documents: int
    seq: int

    @property
    def length(self) -> float:
        """Between 0 and 1 where the vectors have length 1: how much of them is the same."""
        return float(np.linalg.norm(self.vector))

    def serves(self, seq: int) -> bool:
        """Whether it may still stand for the collection after change `seq`."""
        return seq - self.seq <= STALE_SHARE * self.documents


def mean_vector(connection: Connection, *, dimensions: int) -> Mean:
    """Read every vector and average them, in float64. An empty collection has the mean 0."""
    total, documents = np.zeros(dimensions), 0
    for labels, vectors in reading.all_vectors(connection, dimensions=dimensions):
        total += vectors.sum(axis=0, dtype=np.float64)
        documents += len(labels)
    return Mean(total / max(documents, 1), documents, reading.last_seq(connection))
