"""A small index with vectors of its own, for tests that then break something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from grace.errors import InvalidInput
from grace.representation import Job, Representation
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.model import Represent
from grace_server.index.settings import CollectionSettings
from tests.index.model import DictModel

H, ROWS = 8, 120
SETTINGS = CollectionSettings(kind="hnsw", flat_limit=50, links=8, build_width=40)
QUERY = np.eye(H, dtype=np.float32)[0]
TWO: dict[str, Any] = {
    "documents": [{"id": "1", "text": "The river rises."}, {"id": "2", "text": "The mill stands."}],
    "wait": True,
}


def batch(start: int, rows: int, seed: int = 0) -> list[dict[str, Any]]:
    vectors = np.random.default_rng(seed).standard_normal((rows, H))
    return [{"id": f"d{start + i}", "text": "river", "vector": v.tolist()} for i, v in enumerate(vectors)]


def filled(folder: Path, edges: Edges | None = None, rows: int = ROWS) -> tuple[Catalog, Collection, DictModel]:
    catalog = Catalog(folder, edges or Edges())
    collection = catalog.create("a", SETTINGS, dimensions=H, fingerprint=None)
    model = DictModel()
    documents = batch(0, rows)
    collection.upsert(documents)
    model.upsert(documents)
    return catalog, collection, model


def refusing(word: str) -> Callable[[Represent], Represent]:
    """Refuses texts that hold a word, as the engine refuses what it cannot take."""

    def wrapped(represent: Represent) -> Represent:
        async def refuse(job: Job) -> Representation:
            if word in job.text:
                raise InvalidInput(f"no {word} here", param="input")
            return await represent(job)

        return refuse

    return wrapped


def reopened(folder: Path) -> tuple[Catalog, Collection]:
    catalog = Catalog(folder, Edges())
    return catalog, catalog.get("a")
