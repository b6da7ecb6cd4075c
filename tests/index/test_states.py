"""Whatever is done to a collection, in whichever order, it answers like a dict, also after a restart."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.filters import compile_filter
from grace_server.index.settings import CollectionSettings
from tests.index.invariants import check, ids_of
from tests.index.model import DictModel, matches

H = 8
IDS = [f"d{i}" for i in range(12)]
WORDS = ["river", "bridge", "harbour", "mill"]

vectors = st.lists(st.integers(-4, 4), min_size=H, max_size=H).filter(any)
documents = st.builds(
    lambda i, text, year, vector: {"id": i, "text": text, "metadata": {"year": year}, "vector": vector},
    st.sampled_from(IDS),
    st.sampled_from(WORDS),
    st.integers(1990, 1995),
    st.none() | vectors,
)
batches = st.lists(documents, min_size=1, max_size=6, unique_by=lambda d: d["id"])
conditions = st.builds(
    lambda operator, year: {"field": "meta.year", "operator": operator, "value": year},
    st.sampled_from(["==", "!=", "<", ">="]),
    st.integers(1990, 1995),
)


def unit(vector: list[int]) -> list[float]:
    array = np.asarray(vector, np.float64)
    return (array / np.linalg.norm(array)).tolist()


class CollectionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.catalog = Catalog(self.folder, Edges())
        # Built from the fifth row on, so that base, delta and tombstones all come into play.
        chosen = CollectionSettings(kind="hnsw", flat_limit=4, links=8, build_width=40)
        self.collection = self.catalog.create("a", chosen, dimensions=H, fingerprint=None)
        self.model = DictModel()

    @rule(batch=batches)
    def upsert(self, batch: list[dict[str, Any]]) -> None:
        self.collection.upsert(batch)
        self.model.upsert([d if d["vector"] is None else {**d, "vector": unit(d["vector"])} for d in batch])

    @rule(batch=batches)
    def upsert_again(self, batch: list[dict[str, Any]]) -> None:
        self.upsert(batch)
        _, change = self.collection.upsert(batch)
        assert change.unchanged == len(batch)

    @rule(ids=st.lists(st.sampled_from(IDS), unique=True))
    def delete(self, ids: list[str]) -> None:
        assert self.collection.delete(ids) == self.model.delete(ids)

    @rule(condition=conditions)
    def delete_matching(self, condition: dict[str, Any]) -> None:
        assert self.collection.delete_matching(compile_filter(condition)) == self.model.delete_matching(condition)

    @rule(query=vectors, k=st.integers(1, 15), condition=conditions)
    def search_with_filter(self, query: list[int], k: int, condition: dict[str, Any]) -> None:
        asked = np.asarray(unit(query), np.float32)
        [found] = self.collection.dense(asked[None], k, compile_filter(condition))
        expected = self.model.nearest(asked, k, condition)
        assert found.exact
        np.testing.assert_allclose(found.scores, [score for _, score in expected], atol=2e-6)
        assert all(matches(condition, self.model.documents[i][1]) for i in ids_of(self.collection, found))

    @rule(word=st.sampled_from(WORDS))
    def search_by_word(self, word: str) -> None:
        found = ids_of(self.collection, self.collection.lexical(word, 100))
        assert sorted(found) == sorted(i for i, (text, _, _) in self.model.documents.items() if text == word)

    @rule(work=st.sampled_from([None, "build", "merge", "rebuild", "flatten"]))
    def maintain(self, work: Any) -> None:
        if work != "merge" or self.collection.index.base is not None:
            self.collection.maintain(work)

    @precondition(lambda self: len(self.model.documents) > 3)
    @rule()
    def compact(self) -> None:
        self.collection.compact()

    @rule()
    def restart(self) -> None:
        self.catalog.close()
        self.catalog = Catalog(self.folder, Edges())
        self.collection = self.catalog.get("a")

    @invariant()
    def holds(self) -> None:
        check(self.collection, self.model, queries=np.eye(H, dtype=np.float32)[:2])

    def teardown(self) -> None:
        self.catalog.close()
        shutil.rmtree(self.folder)


CollectionMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCollection = CollectionMachine.TestCase
