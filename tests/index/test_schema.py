"""A database of any earlier schema is brought up to date when it is opened, with its documents."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from grace_server.index.collection import DATABASE, Collection
from grace_server.index.edges import Edges
from grace_server.index.schema import migrations
from grace_server.index.settings import CollectionSettings
from grace_server.index.store import APPLICATION_ID
from tests.index.invariants import check, ids_of

H = 2
EARLIER = range(1, len(migrations()))


def made_by(schema: int, folder: Path) -> None:
    """What a version that knew so many migrations would have left: a ready document and one that waits."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(
            "CREATE TABLE migration (number INTEGER PRIMARY KEY, name TEXT, sha256 TEXT, applied_at REAL)"
        )
        for step in migrations()[:schema]:
            connection.executescript(step.sql)
            connection.execute("INSERT INTO migration VALUES (?, ?, ?, 0)", (step.number, step.name, step.sha256))
        settings = {"id": "x", "name": "a", "settings": CollectionSettings().to_json(), "created_at": "0.0"}
        connection.executemany("INSERT INTO setting VALUES (?, ?)", [*settings.items(), ("dimensions", str(H))])
        connection.execute("INSERT INTO job (id, created_at, total) VALUES ('job', 0, 1)")
        connection.execute("UPDATE sequence SET seq = 2")
        connection.execute(
            "INSERT INTO document (label, id, state, seq, job, content, given, metadata, text) VALUES "
            "(1, 'old', 'ready', 1, NULL, x'00', 'vector', '{\"n\":1}', 'a bridge over the river'), "
            "(2, 'waits', 'pending', 2, 'job', x'01', 'text', '{}', 'masons of the guild')"
        )
        connection.execute("INSERT INTO vector VALUES (1, ?)", (np.array([1, 0], "<f4").tobytes(),))


@pytest.mark.parametrize("schema", EARLIER)
def test_documents_of_an_earlier_schema_are_found_changed_and_deleted(tmp_path: Path, schema: int) -> None:
    made_by(schema, tmp_path)
    collection = Collection.open(tmp_path, Edges())
    try:
        check(collection)
        assert ids_of(collection, collection.lexical("bridges", 10)) == ["old"]
        assert ids_of(collection, collection.lexical("mason", 10)) == ["waits"]
        collection.upsert([{"id": "old", "text": "a tunnel", "vector": [0, 1]}, {"id": "new", "text": "a ferry"}])
        assert collection.delete(["waits"]) == 1
        check(collection)
        assert ids_of(collection, collection.lexical("bridge tunnel mason", 10)) == ["old"]
        assert ids_of(collection, collection.lexical("ferry", 10)) == ["new"]
    finally:
        collection.close()
