"""Pages of a hybrid search: every document on one of them, with one score, however many hits are asked for at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.searching import Hit, Options, Question, find
from grace_server.index.settings import CollectionSettings

H = 4
DOCUMENTS = 1_300  # all of which match the query's word: both lists are longer than what is fused at first


Hits = Callable[..., list[Hit]]


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hits]:
    """Of one question, with these options of the search."""
    rng = np.random.default_rng(0)
    documents = [
        {
            "id": str(i),
            "text": "stone " * int(rng.integers(1, 20)) + "bridge " * int(rng.integers(0, 40)),
            "vector": rng.standard_normal(H).tolist(),
        }
        for i in range(DOCUMENTS)
    ]
    catalog = Catalog(tmp_path_factory.mktemp("indexes"), Edges())
    try:
        collection = catalog.create("a", CollectionSettings(), dimensions=H, fingerprint=None)
        collection.upsert(documents)
        question = Question("stone", np.array([1, 0, 0, 0], dtype=np.float32))

        def asked(offset: int, k: int, **options: Any) -> list[Hit]:
            [answer], _ = find(collection, [question], Options(k=k, offset=offset, method="hybrid", **options))
            return list(answer.hits)

        yield asked
    finally:
        catalog.close()


@pytest.mark.parametrize("dense_weight", [0.5, 3.0])
def test_pages_of_a_hybrid_search_neither_overlap_nor_leave_a_document_out(hits: Hits, dense_weight: float) -> None:
    paged = [hit for at in range(0, DOCUMENTS, 100) for hit in hits(at, 100, dense_weight=dense_weight)]
    at_once = hits(0, DOCUMENTS, dense_weight=dense_weight)
    assert sorted(int(hit.document.id) for hit in paged) == list(range(DOCUMENTS))
    assert [(hit.document.id, hit.score, hit.dense, hit.lexical) for hit in paged] == [
        (hit.document.id, hit.score, hit.dense, hit.lexical) for hit in at_once
    ]
    for hit in paged:
        assert hit.score == pytest.approx(sum(place.contribution for place in (hit.dense, hit.lexical) if place))
    for part in (paged[:200], paged[200:400], paged[400:800], paged[800:]):
        scores = [hit.score for hit in part]
        assert scores == sorted(scores, reverse=True)


def test_pages_above_a_threshold_are_the_beginning_of_those_without(hits: Hits) -> None:
    every = [(hit.document.id, hit.score) for hit in hits(0, DOCUMENTS)]
    for least in (every[120][1], every[199][1] * 1.0001, every[500][1]):
        above = [hit for at in range(0, DOCUMENTS, 100) for hit in hits(at, 100, threshold=least)]
        first = next(number for number, (_, score) in enumerate(every) if score < least)
        assert [(hit.document.id, hit.score) for hit in above] == every[:first]
