"""Above the flat limit: recall, quantisation, filters, and searches during a rebuild."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grace_server.index.approximate import Stopped, use_threads
from grace_server.index.building import build
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.filters import compile_filter
from grace_server.index.settings import CollectionSettings
from grace_server.index.vectors import Floats
from tests.index.invariants import check

H, ROWS = 64, 6_000
Opened = tuple[Collection, Floats]


def clustered(rows: int, seed: int) -> Floats:
    """Unit vectors around 100 centres, as embeddings lie."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((100, H))
    vectors = centres[rng.integers(0, 100, rows)] + 0.5 * rng.standard_normal((rows, H))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def documents(vectors: Floats, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"d{start + i}", "text": "", "metadata": {"n": (start + i) % 100}, "vector": v}
        for i, v in enumerate(vectors.tolist())
    ]


SLOW = pytest.mark.skipif("GRACE_SLOW_TESTS" not in os.environ, reason="training the codes takes a minute")


@pytest.fixture(scope="module", params=["hnsw", "hnsw sq8", "ivf", "ivf sq8", pytest.param("ivf pq", marks=SLOW)])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    kind, _, quantization = str(request.param).partition(" ")
    settings = CollectionSettings(
        kind=kind, quantization=quantization or "none", flat_limit=1_000, durability="NORMAL", probes=0.2, rescore=8
    )
    catalog = Catalog(tmp_path_factory.mktemp("large"), Edges())
    collection = catalog.create("a", settings, dimensions=H, fingerprint=None)
    vectors = clustered(ROWS, 1)
    for start in range(0, ROWS, 2_000):
        collection.upsert(documents(vectors[start : start + 2_000], start))
    assert collection.maintain() == "build"
    yield collection, vectors
    catalog.close()


def recall(
    collection: Collection, vectors: Floats, queries: Floats, allowed: list[int], condition: Any = None
) -> float:
    clause = None if condition is None else compile_filter(condition)
    found = collection.dense(queries, 10, clause)
    share = []
    for query, neighbours in zip(queries, found, strict=True):
        best = np.array(allowed)[np.argsort(-(vectors[allowed] @ query))[:10]]
        ids = {d.id for d in collection.documents(neighbours.labels).values()}
        share.append(len(ids & {f"d{i}" for i in best}) / 10)
        scores = [float(vectors[int(i[1:])] @ query) for i in ids]
        np.testing.assert_allclose(sorted(neighbours.scores, reverse=True), sorted(scores, reverse=True), atol=2e-6)
    return float(np.mean(share))


def test_recall_is_high_and_scores_are_those_of_the_stored_vectors(opened: Opened) -> None:
    collection, vectors = opened
    assert not collection.dense(vectors[:1], 10)[0].exact
    assert recall(collection, vectors, clustered(50, 2), list(range(ROWS))) >= (
        0.9 if "pq" in str(collection.settings.quantization) else 0.98
    )


@pytest.mark.parametrize("k", [200, 1_000])
def test_recall_is_high_for_many_neighbours_too(opened: Opened, k: int) -> None:
    collection, vectors = opened
    queries = clustered(20, 5)
    found = collection.dense(queries, k)
    ids = [{d.id for d in collection.documents(one.labels).values()} for one in found]
    best = [{f"d{i}" for i in np.argsort(-(vectors @ query))[:k]} for query in queries]
    assert np.mean([len(mine & true) / k for mine, true in zip(ids, best, strict=True)]) >= 0.95


def test_a_filter_that_lets_one_in_a_hundred_through_loses_nothing(opened: Opened) -> None:
    collection, vectors = opened
    condition = {"field": "n", "operator": "==", "value": 7}
    assert recall(collection, vectors, clustered(20, 3), [i for i in range(ROWS) if i % 100 == 7], condition) == 1.0


def test_it_is_sound_and_opens_from_its_checkpoint(opened: Opened) -> None:
    collection, vectors = opened
    check(collection)
    collection.reload()
    assert collection.local is not None
    assert collection.local.base is not None
    assert recall(collection, vectors, clustered(10, 4), list(range(ROWS))) >= 0.85


@pytest.mark.parametrize("kind", ["hnsw", "hnsw sq8", "ivf", "ivf sq8"])
def test_what_came_since_is_merged_and_opened_from_the_checkpoint(tmp_path: Path, kind: str) -> None:
    kind, _, quantization = kind.partition(" ")
    settings = CollectionSettings(
        kind=kind, quantization=quantization or "none", flat_limit=100, durability="NORMAL", probes=1.0, rescore=8
    )
    catalog = Catalog(tmp_path, Edges())
    collection = catalog.create("a", settings, dimensions=H, fingerprint=None)
    vectors = clustered(1_500, 1)
    collection.upsert(documents(vectors[:1_000]))
    collection.maintain()
    collection.upsert(documents(vectors[1_000:], 1_000))
    collection.delete(["d0", "d1200"])
    left = [i for i in range(1_500) if i not in (0, 1_200)]
    for moment in ("waiting", "merged", "opened"):
        if moment == "merged":
            assert collection.maintain("merge") == "merge"
        if moment == "opened":
            catalog.close()
            catalog = Catalog(tmp_path, Edges())
            collection = catalog.get("a")
            assert collection.local is not None
            assert len(collection.local.base or ()) == 1_499  # d1200 was deleted before the merge, d0 is masked
        assert recall(collection, vectors, clustered(20, 2), left) >= 0.97
        check(collection)
    catalog.close()


def test_deleted_documents_are_never_found_and_never_missed(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, Edges())
    settings = CollectionSettings(kind="hnsw", flat_limit=100, durability="NORMAL")
    collection = catalog.create("a", settings, dimensions=H, fingerprint=None)
    vectors = clustered(2_000, 1)
    collection.upsert(documents(vectors))
    collection.maintain()
    collection.delete([f"d{i}" for i in range(2_000) if i % 100])  # 20 are left, all through the graph
    [found] = collection.dense(vectors[:1], 30)
    assert len(found.labels) == 20
    assert collection.maintain() == "flatten"
    check(collection)
    catalog.close()


def test_searches_and_writes_go_on_during_a_rebuild(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path, Edges())
    settings = CollectionSettings(kind="hnsw", flat_limit=100, durability="NORMAL")
    collection = catalog.create("a", settings, dimensions=H, fingerprint=None)
    vectors = clustered(6_000, 1)
    collection.upsert(documents(vectors))
    collection.maintain()
    building, answers, wrong = threading.Event(), 0, []

    def rebuild() -> None:
        use_threads(1)
        building.set()
        try:
            collection.maintain("rebuild")
        finally:
            building.clear()

    thread = threading.Thread(target=rebuild)
    thread.start()
    building.wait()
    number = 0
    while building.is_set():
        number += 1
        collection.delete([f"d{number}"])
        collection.upsert(documents(vectors[number : number + 1], 10_000 + number))
        [found] = collection.dense(vectors[number : number + 1], 3)
        ids = {d.id for d in collection.documents(found.labels).values()}
        if f"d{number}" in ids or f"d{10_000 + number}" not in ids:
            wrong.append(number)
        answers += 1
    thread.join()
    assert answers > 3
    assert not wrong
    check(collection)
    catalog.close()


def test_concurrent_searches_agree_with_single_ones(opened: Opened) -> None:
    collection, _ = opened
    queries = clustered(40, 5)
    alone = [collection.dense(q[None], 5)[0].labels.tolist() for q in queries]
    together: dict[int, list[int]] = {}

    def ask(i: int) -> None:
        time.sleep(0.001 * (i % 3))
        together[i] = collection.dense(queries[i : i + 1], 5)[0].labels.tolist()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(len(queries))] == alone


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_codes_are_trained_once_there_are_rows_enough(tmp_path: Path, kind: str) -> None:
    catalog = Catalog(tmp_path, Edges())
    settings = CollectionSettings(kind=kind, quantization="pq", flat_limit=10, durability="NORMAL", rescore=20)
    collection = catalog.create("a", settings, dimensions=H, fingerprint=None)
    vectors = clustered(700, 1)
    collection.upsert(documents(vectors[:400]))
    assert collection.maintain() is None
    assert collection.maintain("build") == "build"
    assert collection.local is not None
    assert collection.local.base is None  # still flat: 256 centroids of 400 rows would be no codes
    collection.upsert(documents(vectors[400:], 400))
    assert collection.maintain() == "build"
    assert recall(collection, vectors, clustered(10, 4), list(range(700))) >= 0.9
    check(collection)
    catalog.close()


@pytest.mark.parametrize("quantization", ["none", "pq"])
def test_a_build_is_given_up_as_soon_as_it_is_told_to(quantization: str) -> None:
    vectors = clustered(4_000, 1)
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return looks == 4  # in the midst of training

    settings = CollectionSettings(kind="ivf", quantization=quantization)
    with pytest.raises(Stopped):
        build(lambda: [(np.arange(4_000), vectors)], size=4_000, dimensions=H, settings=settings, stop=stop)
    assert looks == 4
