"""Pages of a hybrid search: every document on one of them, with one score, however many hits are asked for at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.searching import Hit, Options, Question, find
from grace_server.index.settings import CollectionSettings

H = 4
DOCUMENTS = 1_300  # all of which match the query's word: both lists are longer than what is fused at first


@pytest.mark.parametrize("dense_weight", [0.5, 3.0])
def test_pages_of_a_hybrid_search_neither_overlap_nor_leave_a_document_out(tmp_path: Path, dense_weight: float) -> None:
    rng = np.random.default_rng(0)
    documents = [
        {
            "id": str(i),
            "text": "stone " * int(rng.integers(1, 20)) + "bridge " * int(rng.integers(0, 40)),
            "vector": rng.standard_normal(H).tolist(),
        }
        for i in range(DOCUMENTS)
    ]
    catalog = Catalog(tmp_path, Edges())
    try:
        collection = catalog.create("a", CollectionSettings(), dimensions=H, fingerprint=None)
        collection.upsert(documents)
        question = Question("stone", np.array([1, 0, 0, 0], dtype=np.float32))

        def hits(offset: int, k: int) -> list[Hit]:
            options = Options(k=k, offset=offset, method="hybrid", dense_weight=dense_weight)
            [answer], _ = find(collection, [question], options)
            return list(answer.hits)

        paged = [hit for offset in range(0, DOCUMENTS, 100) for hit in hits(offset, 100)]
        at_once = hits(0, DOCUMENTS)
    finally:
        catalog.close()
    assert sorted(int(hit.document.id) for hit in paged) == list(range(DOCUMENTS))
    assert [(hit.document.id, hit.score, hit.dense, hit.lexical) for hit in paged] == [
        (hit.document.id, hit.score, hit.dense, hit.lexical) for hit in at_once
    ]
    for hit in paged:
        assert hit.score == pytest.approx(sum(place.contribution for place in (hit.dense, hit.lexical) if place))
    for part in (paged[:200], paged[200:1_000], paged[1_000:]):
        scores = [hit.score for hit in part]
        assert scores == sorted(scores, reverse=True)
