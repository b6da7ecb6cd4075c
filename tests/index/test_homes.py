"""Each foreign thing has one home: to change it, one opens these files and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import grace_server.index
from grace_server.index.schema import migrations

FOLDER = Path(grace_server.index.__file__).parent


@pytest.mark.parametrize(
    ("words", "homes"),
    [
        (r"\bimport sqlite3\b|\bsqlite3\.", {"store.py"}),
        (r"\bimport faiss\b", {"approximate.py", "building.py", "matrix.py"}),
        (r"\bqdrant_client\b", {"qdrant_index.py"}),
        (r"\bpickle\b", set()),
        (r"\bos\.environ\b|\bgetenv\b", set()),
        (r"\btime\.time\b", {"edges.py", "description.py", "gauges.py"}),
        (r"\buuid\b", {"edges.py"}),
    ],
)
def test_it_is_said_at_home_only(words: str, homes: set[str]) -> None:
    found = {f.name for f in FOLDER.rglob("*.py") if re.search(words, f.read_text(encoding="utf-8"))}
    assert found == homes


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [m.number for m in migrations()] == list(range(1, len(migrations()) + 1))
