"""What is sent to Qdrant stays within what it takes, and its refusals are told from its absence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from grace_server.errors import ApiError
from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.errors import StoreRefused, StoreUnavailable, TooLarge
from grace_server.index.filters import compile_filter
from grace_server.index.settings import CollectionSettings
from grace_server.index.vectors import Labels
from tests.index.test_congruence import LABELS, QUERIES, VECTORS, H, assert_right

qdrant_client = pytest.importorskip("qdrant_client", reason="the extra `qdrant` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")

from grace_server.index import qdrant_index  # noqa: E402 - imports what may not be installed

MOST = 200  # numbers in a request, in these tests


class Recorded:
    """The embedded edition; `requests` are those of searches, `before` is done before each."""

    def __init__(self) -> None:
        self.client = qdrant_client.QdrantClient(":memory:")
        self.requests: list[list[Any]] = []
        self.points: list[int] = []  # of each upsert
        self.before: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def query_batch_points(self, name: str, requests: list[Any]) -> Any:
        self.before()
        self.requests.append(requests)
        return self.client.query_batch_points(name, requests)

    def upsert(self, name: str, points: Any, **how: Any) -> Any:
        self.points.append(len(points.ids))
        return self.client.upsert(name, points=points, **how)

    def numbers(self) -> list[int]:
        """Ids and components of each request."""
        return [sum(len(one.query) + len(_ids(one)) for one in requests) for requests in self.requests]


def _ids(request: Any) -> list[int]:
    if request.filter is None:
        return []
    [condition] = request.filter.must or request.filter.must_not
    return list(condition.has_id)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    monkeypatch.setattr(qdrant_index, "NUMBERS", MOST)
    made = Recorded()
    yield made
    made.client.close()


def filled(recorded: Recorded, rows: int = len(LABELS)) -> qdrant_index.QdrantIndex:
    index = qdrant_index.QdrantIndex(recorded, "a", H)  # type: ignore[arg-type] # as much of a client as it uses
    index.add(LABELS[:rows], VECTORS[:rows])
    return index


@pytest.mark.parametrize(
    "allowed", [None, LABELS[:3], LABELS[:150], LABELS[20:], LABELS[:-1], LABELS, np.append(LABELS, 99_999)]
)
def test_whatever_a_filter_lets_through_requests_stay_within_the_bound_and_answers_right(
    recorded: Recorded, allowed: Labels | None
) -> None:
    index = filled(recorded)
    index.remove(LABELS[5:8])
    kept = np.delete(LABELS, slice(5, 8))
    candidates = kept if allowed is None else np.intersect1d(kept, allowed)
    for query, found in zip(QUERIES, index.search(QUERIES, 10, allowed=allowed), strict=True):
        assert_right(found, query, candidates.tolist(), 10)
    assert max(recorded.numbers()) <= MOST
    assert max(recorded.points) * H <= MOST


def test_a_filter_that_lets_nearly_all_through_is_sent_as_those_it_keeps_out(recorded: Recorded) -> None:
    filled(recorded).search(QUERIES, 10, allowed=LABELS[2:])
    [requests] = recorded.requests
    assert all(_ids(one) == LABELS[:2].tolist() and one.filter.must is None for one in requests)


def test_what_an_index_was_found_with_is_kept_out_too(recorded: Recorded) -> None:
    filled(recorded)
    again = qdrant_index.QdrantIndex(recorded, "a", H)  # type: ignore[arg-type] # as above
    again.labels()  # as `reconcile` asks at every start
    [found] = again.search(QUERIES[:1], 300, allowed=LABELS[2:])
    assert_right(found, QUERIES[0], LABELS[2:].tolist(), 300)


@pytest.mark.parametrize("often", [1, 9])
def test_a_document_written_during_a_search_gets_past_no_filter(recorded: Recorded, often: int) -> None:
    index, new = filled(recorded, 100), itertools.count(100)

    def write() -> None:
        if (row := next(new)) < 100 + often:
            index.add(LABELS[row : row + 1], QUERIES[:1])  # nearer than any other

    recorded.before = write
    allowed = LABELS[1:100]
    [found] = index.search(QUERIES[:1], 10, allowed=allowed)
    assert set(found.labels.tolist()) <= set(allowed.tolist())
    if often == 1:
        assert_right(found, QUERIES[0], allowed.tolist(), 10)
    assert len(recorded.requests) <= qdrant_index.TRIES


def test_a_filter_too_long_either_way_is_refused_naming_the_limit(recorded: Recorded, tmp_path: Path) -> None:
    edges = Edges(vector_index=qdrant_index.in_qdrant(recorded))  # type: ignore[arg-type] # as above
    catalog = Catalog(tmp_path, edges)
    collection = catalog.create("a", CollectionSettings(), dimensions=H, fingerprint=None)
    rows = [{"id": str(i), "vector": row.tolist(), "metadata": {"n": i % 2}} for i, row in enumerate(VECTORS)] + [
        {"id": f"more {i}", "vector": row.tolist(), "metadata": {"n": i % 2}} for i, row in enumerate(VECTORS[:100])
    ]
    collection.upsert(rows)
    with pytest.raises(TooLarge, match=r"filter lets 200 of 400 documents through.* at most 184 ") as refused:
        collection.dense(QUERIES, 10, compile_filter({"field": "n", "operator": "==", "value": 1}))
    assert refused.value.param == "filter"
    assert not recorded.requests
    catalog.close()


OVERFLOW = (
    b'{"status":{"error":"Payload error: JSON payload (46866880 bytes) is larger than allowed (limit: 33554432)."}}'
)


@pytest.mark.parametrize(
    ("status", "body", "searching", "writing"),
    [
        (400, OVERFLOW, TooLarge, StoreRefused),
        (413, b"", TooLarge, StoreRefused),
        (400, b'{"status":{"error":"Wrong input: Vector dimension error"}}', StoreRefused, StoreRefused),
        (429, b"", StoreUnavailable, StoreUnavailable),
        (500, b"", StoreUnavailable, StoreUnavailable),
        (503, b"", StoreUnavailable, StoreUnavailable),
    ],
)
def test_only_what_may_pass_is_answered_as_such(
    status: int,
    body: bytes,
    searching: type[ApiError],
    writing: type[ApiError],
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/exists"):
            return httpx.Response(200, json={"result": {"exists": True}, "status": "ok", "time": 0})
        return httpx.Response(status, content=body, headers={"retry-after": "7"} if status == 429 else {})

    client = qdrant_client.QdrantClient(
        url="http://qdrant", transport=httpx.MockTransport(answer), check_compatibility=False
    )
    index = qdrant_index.QdrantIndex(client, "a", H)
    with pytest.raises(ApiError) as refused:
        index.search(QUERIES, 10, allowed=LABELS[:3])
    assert type(refused.value) is searching
    assert refused.value.param == ("filter" if searching is TooLarge else None)
    assert (refused.value.retry_after is not None) == (searching is StoreUnavailable)
    if status == 429:
        assert refused.value.retry_after == 7
    with pytest.raises(ApiError) as refused:
        index.add(LABELS[:3], VECTORS[:3])
    assert type(refused.value) is writing
