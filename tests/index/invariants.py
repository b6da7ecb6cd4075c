"""What must hold of a collection at any time, whatever happened before. One function, used by every kind of test."""

from __future__ import annotations

import numpy as np

from grace_server.index.collection import Collection
from grace_server.index.vector_index import Neighbours
from grace_server.index.vectors import Floats
from grace_server.index.verify import Report, verify
from tests.index.model import DictModel

TOLERANCE = 2e-6


def check(collection: Collection, model: DictModel | None = None, *, queries: Floats | None = None) -> None:
    """The collection is sound, and holds exactly what the model holds."""
    assert verify(collection) == Report((), ())
    if model is None:
        return
    stored = {d.id: d for d in collection.page(limit=1_000_000)}
    assert stored.keys() == model.documents.keys()
    for i, (text, metadata, vector) in model.documents.items():
        assert (stored[i].text, stored[i].metadata) == (text, metadata)
        assert (stored[i].state == "ready") == (vector is not None)
    if queries is not None:
        for query in queries:
            check_search(collection, model, query)


def check_search(collection: Collection, model: DictModel, query: Floats, k: int = 5) -> None:
    """An answer that calls itself exact is the brute-force answer."""
    [found] = collection.dense(query[None], k)
    expected = model.nearest(query, k)
    ids = ids_of(collection, found)
    scores = np.array([score for _, score in expected])
    assert len(ids) == len(expected)
    if found.exact:
        np.testing.assert_allclose(found.scores, scores, atol=TOLERANCE)
    true = dict(model.nearest(query, len(model.documents)))
    np.testing.assert_allclose(found.scores, [true[i] for i in ids], atol=TOLERANCE)


def ids_of(collection: Collection, found: Neighbours) -> list[str]:
    documents = collection.documents(found.labels)
    return [documents[label].id for label in found.labels.tolist()]
