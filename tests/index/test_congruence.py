"""One list of scenarios on every engine behind `VectorIndex`; each answers like brute force, and so like the others.

GRACE_QDRANT_URL names a Qdrant server to run them on too.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.faiss_index import FaissIndex
from grace_server.index.filters import compile_filter
from grace_server.index.settings import CollectionSettings
from grace_server.index.vector_index import Neighbours, VectorIndex, reconcile
from grace_server.index.vectors import Floats, Labels
from tests.index.invariants import check
from tests.index.model import DictModel

qdrant_client = pytest.importorskip("qdrant_client", reason="the extra `qdrant` is not installed")

H, ROWS = 16, 300
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((ROWS, H)).astype(np.float32)
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)
LABELS = np.arange(10, 10 + ROWS)
QUERIES = VECTORS[:4] + 0.1 * RNG.standard_normal((4, H)).astype(np.float32)
QUERIES /= np.linalg.norm(QUERIES, axis=1, keepdims=True)


def fetch(labels: Labels) -> tuple[Labels, Floats]:
    return labels, VECTORS[labels - 10]


@pytest.fixture(params=["faiss", "faiss built", "qdrant embedded", "qdrant server"])
def index(request: pytest.FixtureRequest) -> Iterator[VectorIndex]:
    from grace_server.index.qdrant_index import QdrantIndex

    match request.param:
        case "faiss":
            yield FaissIndex(H, CollectionSettings(), fetch)
        case "faiss built":
            built = FaissIndex(H, CollectionSettings(kind="hnsw", flat_limit=0), fetch)
            built.add(LABELS[:1], VECTORS[:1])
            built.maintain(
                "build", lambda: [(LABELS[:1], VECTORS[:1])], stop=lambda: False, exclusively=lambda act: act()
            )
            built.remove(LABELS[:1])
            yield built
        case "qdrant embedded":
            client = qdrant_client.QdrantClient(":memory:")
            yield QdrantIndex(client, "a", H)
            client.close()
        case _:
            if (url := os.environ.get("GRACE_QDRANT_URL")) is None:
                pytest.skip("GRACE_QDRANT_URL names no server")
            client = qdrant_client.QdrantClient(url=url)
            name = f"grace-test-{uuid.uuid4().hex}"
            yield QdrantIndex(client, name, H)
            client.delete_collection(name)


def added(index: VectorIndex) -> set[int]:
    index.add(LABELS, VECTORS)
    return set(LABELS.tolist())


def some_removed(index: VectorIndex) -> set[int]:
    left = added(index)
    index.remove(LABELS[::3])
    index.remove(np.array([10, 99_999]))  # one twice, one never there
    return left - set(LABELS[::3].tolist())


def all_removed(index: VectorIndex) -> set[int]:
    added(index)
    index.remove(LABELS)
    return set()


def added_in_parts(index: VectorIndex) -> set[int]:
    for start in range(0, 100, 7):
        index.add(LABELS[start : start + 7], VECTORS[start : start + 7])
    return set(LABELS[:105].tolist())


def reconciled(index: VectorIndex) -> set[int]:
    index.add(LABELS[:50], VECTORS[:50])
    reconcile(index, LABELS[20:90], fetch)
    return set(LABELS[20:90].tolist())


def nothing(index: VectorIndex) -> set[int]:
    return set()


@pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
@pytest.mark.parametrize("scenario", [nothing, added, some_removed, all_removed, added_in_parts, reconciled])
@pytest.mark.parametrize("allowed", [None, LABELS[::5], LABELS[:3], np.array([5, 99_999])])
def test_an_engine_answers_like_brute_force(
    index: VectorIndex, scenario: Callable[[VectorIndex], set[int]], allowed: Labels | None
) -> None:
    living = scenario(index)
    assert index.labels().tolist() == sorted(living)
    assert len(index) == len(living)
    candidates = sorted(living if allowed is None else living & set(allowed.tolist()))
    for k in (1, 10, 1_000):
        for query, found in zip(QUERIES, index.search(QUERIES, k, allowed=allowed), strict=True):
            assert_right(found, query, candidates, k)
            [alone] = index.search(query[None], k, allowed=allowed)
            assert_right(alone, query, candidates, k)


@settings(max_examples=60, deadline=None)
@given(
    which=st.lists(st.integers(0, 3), min_size=1, max_size=250),
    doomed=st.sets(st.integers(0, 249), max_size=40),
    asked=st.integers(1, 4),
    some=st.booleans(),
)
def test_a_longer_list_of_equal_vectors_begins_with_the_shorter_one(
    which: list[int], doomed: set[int], asked: int, some: bool
) -> None:
    index = FaissIndex(4, CollectionSettings(), fetch)
    labels = np.arange(len(which))
    vectors = np.eye(4, dtype=np.float32)[which]
    index.add(labels, vectors)
    index.remove(np.array(sorted(doomed & set(labels.tolist())), np.int64))
    allowed = labels[::2] if some else None
    candidates = [n for n in (labels if allowed is None else allowed).tolist() if n not in doomed]
    queries = np.array([[0.4, 0.3, 0.2, 0.1], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], np.float32)[:asked]
    for query, k in itertools.product(range(asked), (1, 2, 7, 99, 100, 300)):
        scores = vectors @ queries[query]
        expected = sorted(candidates, key=lambda n: (-scores[n], n))[:k]
        assert index.search(queries, k, allowed=allowed)[query].labels.tolist() == expected


def assert_right(found: Neighbours, query: Floats, candidates: list[int], k: int) -> None:
    scores = VECTORS[np.array(candidates, dtype=np.int64) - 10] @ query
    np.testing.assert_allclose(found.scores, np.sort(scores)[::-1][:k], atol=1e-5)
    own = dict(zip(candidates, scores.tolist(), strict=True))
    np.testing.assert_allclose(found.scores, [own[label] for label in found.labels.tolist()], atol=1e-5)
    assert len(set(found.labels.tolist())) == len(found.labels)


def test_the_comparator_finds_a_wrong_answer() -> None:
    wrong = Neighbours(LABELS[:1], np.array([0.5], np.float32), exact=True)
    with pytest.raises(AssertionError):
        assert_right(wrong, QUERIES[0], LABELS.tolist(), 1)


@pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
def test_a_collection_with_its_vectors_in_qdrant_keeps_its_promises(tmp_path: Path) -> None:
    from grace_server.index.qdrant_index import in_qdrant

    client = qdrant_client.QdrantClient(":memory:")
    edges, model = Edges(vector_index=in_qdrant(client)), DictModel()
    catalog = Catalog(tmp_path, edges)
    collection = catalog.create("a", CollectionSettings(), dimensions=H, fingerprint=None)
    batch = [
        {"id": f"d{i}", "text": "river", "metadata": {"n": i % 7}, "vector": VECTORS[i].tolist()} for i in range(60)
    ]
    collection.upsert(batch)
    model.upsert(batch)
    collection.upsert(batch[:5])
    assert collection.delete(["d1", "d2"]) == model.delete(["d1", "d2"])
    check(collection, model, queries=QUERIES)
    [found] = collection.dense(QUERIES[:1], 3, compile_filter({"field": "n", "operator": "==", "value": 3}))
    assert {d.metadata["n"] for d in collection.documents(found.labels).values()} == {3}
    catalog.close()
    client.delete_collection(f"grace-{collection.id}")  # lost, and made again from SQLite
    catalog = Catalog(tmp_path, edges)
    check(catalog.get("a"), model, queries=QUERIES)
    catalog.delete("a")
    assert not client.get_collections().collections
    catalog.close()
