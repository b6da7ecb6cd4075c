"""Dense search in Qdrant, for more vectors than one machine holds. SQLite stays the truth: points are labels.

One Qdrant collection per index, named by the index's own id. It is derived like any vector index: at start it is
compared with SQLite and set right, so it may be deleted, or be behind, at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from grace_server.index.errors import StoreUnavailable
from grace_server.index.vector_index import MakeVectorIndex, Neighbours, VectorIndex
from grace_server.index.vectors import Floats, Labels

BATCH = 512  # points per request
TIMEOUT_S = 60
EXACT_BELOW = 20_000  # points, or allowed labels, up to which Qdrant is told to compare each


class QdrantIndex:
    """`VectorIndex` in a Qdrant server, or in its embedded edition (exact, for tests)."""

    def __init__(self, client: QdrantClient, name: str, dimensions: int) -> None:
        self._client = client
        self._name = name
        with _reachable():
            if not client.collection_exists(name):
                # Inner product for both metrics: vectors of a cosine index are stored at length 1.
                parameters = models.VectorParams(size=dimensions, distance=models.Distance.DOT)
                client.create_collection(name, vectors_config=parameters)

    def add(self, labels: Labels, vectors: Floats) -> None:
        """Add points, and wait until they are searchable."""
        for start in range(0, len(labels), BATCH):
            some = slice(start, start + BATCH)
            batch = models.Batch(ids=labels[some].tolist(), vectors=vectors[some].tolist())
            with _reachable():
                self._client.upsert(self._name, points=batch, wait=True)

    def remove(self, labels: Labels) -> None:
        """Delete points, and wait until they are gone."""
        for start in range(0, len(labels), BATCH):
            ids = models.PointIdsList(points=labels[start : start + BATCH].tolist())
            with _reachable():
                self._client.delete(self._name, points_selector=ids, wait=True)

    def search(self, queries: Floats, k: int, *, allowed: Labels | None = None) -> list[Neighbours]:
        """The k nearest of each query; exact where there are few candidates."""
        candidates = len(self) if allowed is None else len(allowed)
        if not candidates:
            return [Neighbours(np.empty(0, np.int64), np.empty(0, np.float32), exact=True) for _ in queries]
        exact = candidates <= EXACT_BELOW
        condition = None if allowed is None else models.Filter(must=[models.HasIdCondition(has_id=allowed.tolist())])
        requests = [
            models.QueryRequest(
                query=query.tolist(), limit=k, filter=condition, params=models.SearchParams(exact=exact)
            )
            for query in queries
        ]
        with _reachable():
            answers = self._client.query_batch_points(self._name, requests)
        return [_neighbours(found.points, exact) for found in answers]

    def labels(self) -> Labels:
        """All labels, ascending."""
        found: list[int] = []
        after: Any = None
        while True:
            with _reachable():
                points, after = self._client.scroll(
                    self._name, limit=10_000, offset=after, with_payload=False, with_vectors=False
                )
            found += [int(point.id) for point in points]
            if after is None:
                return np.sort(np.array(found, dtype=np.int64))

    def __len__(self) -> int:
        with _reachable():
            return int(self._client.count(self._name, exact=True).count)

    def close(self) -> None:
        """Nothing: the client belongs to whoever made it."""

    def discard(self) -> None:
        """Delete the Qdrant collection."""
        with _reachable():
            self._client.delete_collection(self._name)


def connect(url: str, api_key: str | None = None) -> QdrantClient:
    """A client of a Qdrant server. Nothing is sent yet."""
    return QdrantClient(url=url, api_key=api_key, timeout=TIMEOUT_S, check_compatibility=False)


def in_qdrant(client: QdrantClient) -> MakeVectorIndex:
    """What `Edges` takes to keep the vectors of all indexes in Qdrant."""

    def make(collection: str, dimensions: int) -> VectorIndex:
        return QdrantIndex(client, f"grace-{collection}", dimensions)

    return make


@contextmanager
def _reachable() -> Iterator[None]:
    """Give the client's errors our names.

    Raises:
        StoreUnavailable: no answer, or a refusal. What was committed stays, and is sent again before the next search.
    """
    try:
        yield
    except (ApiException, OSError) as error:
        raise StoreUnavailable(f"Qdrant did not do as asked: {str(error)[:200]}") from error


def _neighbours(points: Sequence[models.ScoredPoint], exact: bool) -> Neighbours:
    labels = np.array([point.id for point in points], dtype=np.int64)
    scores = np.array([point.score for point in points], dtype=np.float32)
    order = np.lexsort((labels, -scores))
    return Neighbours(labels[order], scores[order], exact)
