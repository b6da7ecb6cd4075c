"""Dense search in Qdrant, for more vectors than one machine holds. SQLite stays the truth: points are labels.

One Qdrant collection per index, named by the index's own id. It is derived like any vector index: at start it is
compared with SQLite and set right, so it may be deleted, or be behind, at any time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from grace_server.index.errors import StoreRefused, StoreUnavailable, TooLarge
from grace_server.index.vector_index import MakeVectorIndex, Neighbours, VectorIndex
from grace_server.index.vectors import Floats, Labels

BATCH = 512  # points per request, or fewer where they are wide
NUMBERS = 1_000_000  # ids and components in one request: 22 MB as JSON, where Qdrant takes 32 unless told otherwise
TRIES = 3  # of a filtered search into which writes come
TIMEOUT_S = 60
EXACT_BELOW = 20_000  # points, or allowed labels, up to which Qdrant is told to compare each


class QdrantIndex:
    """`VectorIndex` in a Qdrant server, or in its embedded edition (exact, for tests)."""

    def __init__(self, client: QdrantClient, name: str, dimensions: int) -> None:
        self._client = client
        self._name = name
        self._batch = max(1, min(BATCH, NUMBERS // dimensions))
        self._held = _Held()
        with _reachable():
            if not client.collection_exists(name):
                # Inner product for both metrics: vectors of a cosine index are stored at length 1.
                parameters = models.VectorParams(size=dimensions, distance=models.Distance.DOT)
                client.create_collection(name, vectors_config=parameters)

    def add(self, labels: Labels, vectors: Floats) -> None:
        """Add points, and wait until they are searchable."""
        self._held.add(labels)
        for start in range(0, len(labels), self._batch):
            some = slice(start, start + self._batch)
            batch = models.Batch(ids=labels[some].tolist(), vectors=vectors[some].tolist())
            with _reachable():
                self._client.upsert(self._name, points=batch, wait=True)

    def remove(self, labels: Labels) -> None:
        """Delete points, and wait until they are gone."""
        for start in range(0, len(labels), BATCH):
            ids = models.PointIdsList(points=labels[start : start + BATCH].tolist())
            with _reachable():
                self._client.delete(self._name, points_selector=ids, wait=True)
        self._held.remove(labels)

    def search(self, queries: Floats, k: int, *, allowed: Labels | None = None) -> list[Neighbours]:
        """The k nearest of each query; exact where there are few candidates.

        Raises:
            TooLarge: the filter lets too many labels through, and keeps too many out.
        """
        candidates = len(self) if allowed is None else len(allowed)
        if not candidates:
            return [Neighbours(np.empty(0, np.int64), np.empty(0, np.float32), exact=True) for _ in queries]
        exact = candidates <= EXACT_BELOW
        if allowed is None:
            return self._ask(queries, k, None, exact)
        for _ in range(TRIES):
            listed = self._listed(allowed, width=queries.shape[1])
            found = self._ask(queries, k, listed, exact)
            # A list of those kept out lacks what was added after it was made; the next one has it.
            if not listed.out or all(np.isin(one.labels, allowed).all() for one in found):
                break
        return [_among(one, allowed) for one in found]

    def _listed(self, allowed: Labels, *, width: int) -> _Listed:
        """A filter as the shorter list of ids: of those it lets through, or of those it keeps out."""
        listed = _Listed(allowed, out=False)
        held = self._held.labels()
        if 2 * len(allowed) > len(held):
            kept_out = np.setdiff1d(held, allowed, assume_unique=True)
            listed = min(listed, _Listed(kept_out, out=True), key=lambda one: len(one.labels))
        if len(listed.labels) + width > NUMBERS:
            raise TooLarge(
                f"filter lets {len(allowed)} of {len(held)} documents through: with Qdrant it may let at most "
                f"{NUMBERS - width} through, or keep as many out",
                param="filter",
            )
        return listed

    def _ask(self, queries: Floats, k: int, listed: _Listed | None, exact: bool) -> list[Neighbours]:
        """The list goes with every query, so many queries make several requests."""
        condition = None if listed is None else listed.condition()
        numbers = queries.shape[1] + (0 if listed is None else len(listed.labels))  # of one query
        at_once = max(1, NUMBERS // numbers)
        found: list[Neighbours] = []
        for start in range(0, len(queries), at_once):
            requests = [
                models.QueryRequest(
                    query=query.tolist(), limit=k, filter=condition, params=models.SearchParams(exact=exact)
                )
                for query in queries[start : start + at_once]
            ]
            with _reachable(filtered=listed is not None):
                answers = self._client.query_batch_points(self._name, requests)
            found += [_neighbours(answer.points, exact) for answer in answers]
        return found

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
                labels = np.sort(np.array(found, dtype=np.int64))
                self._held.add(labels)
                return labels

    def __len__(self) -> int:
        with _reachable():
            return int(self._client.count(self._name, exact=True).count)

    def close(self) -> None:
        """Nothing: the client belongs to whoever made it."""

    def discard(self) -> None:
        """Delete the Qdrant collection."""
        with _reachable():
            self._client.delete_collection(self._name)


@dataclass(frozen=True, slots=True, eq=False)
class _Listed:
    """A filter as a list of ids."""

    labels: Labels
    out: bool  # they are kept out, and all others let through

    def condition(self) -> models.Filter:
        """The filter in Qdrant's words."""
        ids: list[Any] = [models.HasIdCondition(has_id=self.labels.tolist())]
        return models.Filter(must_not=ids) if self.out else models.Filter(must=ids)


class _Held:
    """The labels that may be in Qdrant, so that what a filter keeps out need not be asked for. Never too few: they are
    added before they are sent, and removed after they are gone. Changes are worked in when somebody looks.
    """

    def __init__(self) -> None:
        self._added: list[Labels] = [np.empty(0, np.int64)]
        self._removed: list[Labels] = []
        self._lock = threading.Lock()  # searches look while the writer writes

    def add(self, labels: Labels) -> None:
        with self._lock:
            self._added.append(labels)

    def remove(self, labels: Labels) -> None:
        with self._lock:
            self._removed.append(labels)

    def labels(self) -> Labels:
        """All of them, ascending."""
        with self._lock:
            if len(self._added) > 1 or self._removed:
                every = np.unique(np.concatenate(self._added))
                gone = np.unique(np.concatenate([every[:0], *self._removed]))
                # A label never comes back, so it does not matter what was first, its adding or its removal.
                self._added, self._removed = [np.setdiff1d(every, gone, assume_unique=True)], []
            return self._added[0]


def connect(url: str, api_key: str | None = None) -> QdrantClient:
    """A client of a Qdrant server. Nothing is sent yet."""
    return QdrantClient(url=url, api_key=api_key, timeout=TIMEOUT_S, check_compatibility=False)


def in_qdrant(client: QdrantClient) -> MakeVectorIndex:
    """What `Edges` takes to keep the vectors of all indexes in Qdrant."""

    def make(collection: str, dimensions: int) -> VectorIndex:
        return QdrantIndex(client, f"grace-{collection}", dimensions)

    return make


@contextmanager
def _reachable(*, filtered: bool = False) -> Iterator[None]:
    """Give the client's errors our names. `filtered`: a filter is most of what was sent.

    Raises:
        StoreUnavailable: no answer, or not now. What was committed stays, and is sent again before the next search.
        StoreRefused: Qdrant does not take the request as it is.
        TooLarge: it is larger than Qdrant takes, for its filter.
    """
    try:
        yield
    except ResourceExhaustedResponse as error:
        raise StoreUnavailable(f"Qdrant is asked too much: {error}", retry_after=error.retry_after_s) from error
    except UnexpectedResponse as error:
        if error.status_code not in (400, 413):
            raise StoreUnavailable(f"Qdrant did not do as asked: {str(error)[:200]}") from error
        if filtered and _is_too_large(error):
            raise TooLarge(
                f"filter: its list of documents is larger than this Qdrant takes (max_request_size_mb): {_said(error)}",
                param="filter",
            ) from error
        raise StoreRefused(f"Qdrant refuses what it was asked: {_said(error)}") from error
    except (ApiException, OSError) as error:
        raise StoreUnavailable(f"Qdrant did not do as asked: {str(error)[:200]}") from error


def _is_too_large(error: UnexpectedResponse) -> bool:
    # Qdrant 1.15 answers a body over its limit with 400 and these words, a proxy before it with 413.
    return error.status_code == 413 or b"larger than allowed" in error.content


def _said(error: UnexpectedResponse) -> str:
    return f"{error.status_code}, {error.content.decode('utf-8', 'replace')[:200]}"


def _among(found: Neighbours, allowed: Labels) -> Neighbours:
    kept = np.isin(found.labels, allowed)
    return Neighbours(found.labels[kept], found.scores[kept], found.exact)


def _neighbours(points: Sequence[models.ScoredPoint], exact: bool) -> Neighbours:
    labels = np.array([point.id for point in points], dtype=np.int64)
    scores = np.array([point.score for point in points], dtype=np.float32)
    order = np.lexsort((labels, -scores))
    return Neighbours(labels[order], scores[order], exact)
