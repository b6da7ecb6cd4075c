"""SQL of the reads: documents, vectors, sums, counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grace.representation import Segment
from grace_server.index.document import Document, State, StoredSums, rationale_of
from grace_server.index.filters import Clause, matching
from grace_server.index.store import Connection
from grace_server.index.vectors import Floats, Labels, from_blob

CHUNK = 4_096  # rows in memory at a time

_COLUMNS = (
    "label, id, state, seq, text, metadata, given, rationale, finish_reason, rationale_tokens, thinking_open, "
    "fingerprint, truncated, "
    "(SELECT reason FROM job_failure WHERE state = 'failed' AND job_failure.job = document.job "
    "AND job_failure.document = document.id) AS reason"
)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many documents are in which state."""

    ready: int
    pending: int
    failed: int
    cancelled: int
    tombstones: int
    seq: int


@dataclass(frozen=True, slots=True)
class Pending:
    """A document that waits for its vector."""

    label: int
    id: str
    text: str
    rationale: str | None  # given by the caller


def by_id(connection: Connection, document: str) -> Document | None:
    """One document, in whichever state."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM document WHERE id = ?", (document,)).fetchone()
    return None if row is None else _document(row)


def by_label(connection: Connection, labels: Labels) -> dict[int, Document]:
    """Those of the labels that are still there."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM document WHERE label IN (SELECT value FROM json_each(?))",
        (json.dumps(labels.tolist()),),
    )
    return {row[0]: _document(row) for row in rows}


def still_there(connection: Connection, labels: Labels) -> Labels:
    """Those of (N,) labels that are still there, in their order; nothing of the documents is read."""
    there = _labels(
        connection,
        "SELECT label FROM document WHERE label IN (SELECT value FROM json_each(?))",
        (json.dumps(labels.tolist()),),
    )
    return labels[np.isin(labels, there)]


def page(connection: Connection, *, after: str, limit: int, clause: Clause | None, state: str | None) -> list[Document]:
    """Documents in the order of their ids, those after an id."""
    condition, parameters = ("1", ()) if clause is None else (clause.sql, clause.parameters)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM document WHERE id > ? AND (? IS NULL OR state = ?) AND {condition} "
        "ORDER BY id LIMIT ?",
        (after, state, state, *parameters, limit),
    )
    return [_document(row) for row in rows]


def changed_after(connection: Connection, seq: int, *, limit: int) -> list[Document]:
    """Documents whose last change comes after `seq`, in the order of those changes."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM document WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
    return [_document(row) for row in rows]


def ids(connection: Connection, *, state: State | None = None) -> set[str]:
    """The ids of all documents, or of those in a state."""
    return {
        row[0] for row in connection.execute("SELECT id FROM document WHERE ? IS NULL OR state = ?", (state, state))
    }


def without_text(connection: Connection) -> tuple[int, str | None]:
    """How many documents are nothing but a vector that was given, and the id of the first."""
    row = connection.execute("SELECT count(*), min(id) FROM document WHERE given = 'vector' AND text = ''").fetchone()
    return int(row[0]), row[1]


def searchable(connection: Connection) -> Labels:
    """(N,) ascending labels of the documents that have a vector."""
    return _labels(connection, "SELECT label FROM document WHERE state = 'ready'", ())


def allowed(connection: Connection, clause: Clause, held: Callable[[], Labels] | None) -> Labels:
    """(N,) ascending labels that a filter lets through: all searchable ones among them, and perhaps others.

    `held` gives the labels of the vector index, if that is cheap: what a filter does not let through is left out.
    """
    if clause.within is not None:
        return _labels(connection, clause.within.sql, clause.within.parameters)
    if clause.without is None or held is None:
        return _labels(connection, *matching(clause))
    last = connection.execute("SELECT coalesce(max(label), -1) FROM document").fetchone()[0]
    labels = held()
    known = labels[labels <= last]  # of later ones this connection cannot say what they are
    return np.setdiff1d(known, _labels(connection, clause.without.sql, clause.without.parameters), assume_unique=True)


def vectors(connection: Connection, labels: Labels, *, dimensions: int) -> tuple[Labels, Floats]:
    """Of (N,) labels those that are still stored, in their order, and their vectors (M, H)."""
    kept: list[int] = []
    out = np.empty((len(labels), dimensions), dtype=np.float32)
    for start in range(0, len(labels), CHUNK):
        some = labels[start : start + CHUNK].tolist()
        rows = connection.execute(
            "SELECT label, vector FROM vector WHERE label IN (SELECT value FROM json_each(?))", (json.dumps(some),)
        )
        found = dict(rows.fetchall())
        there = [label for label in some if label in found]
        rows_here = from_blob(b"".join(found[label] for label in there), rows=len(there), width=dimensions)
        out[len(kept) : len(kept) + len(there)] = rows_here
        kept += there
    return np.array(kept, dtype=np.int64), out[: len(kept)]


def all_vectors(connection: Connection, *, dimensions: int, chunk: int = CHUNK) -> Iterator[tuple[Labels, Floats]]:
    """Labels (ascending) and vectors of all searchable documents, a chunk at a time."""
    # Ready documents have a vector and no others do: to join the documents would read their texts from the disk.
    rows = connection.execute("SELECT label, vector FROM vector ORDER BY label")
    while some := rows.fetchmany(chunk):
        labels = np.array([row[0] for row in some], dtype=np.int64)
        yield labels, from_blob(b"".join(row[1] for row in some), rows=len(some), width=dimensions)


def sums(connection: Connection, label: int) -> StoredSums | None:
    """The segment sums of a document, or None where none are kept."""
    row = connection.execute("SELECT spans, precision, sums FROM segment WHERE label = ?", (label,)).fetchone()
    if row is None:
        return None
    segments = tuple(Segment(*span) for span in json.loads(row[0]))
    width = len(row[2]) // (4 if row[1] == "float32" else 2) // len(segments)
    return StoredSums(segments, from_blob(row[2], rows=len(segments), width=width, precision=row[1]))


def pending(connection: Connection, *, limit: int, skip: Sequence[int] = ()) -> list[Pending]:
    """Documents that wait for their vectors, oldest first, without those being worked on."""
    rows = connection.execute(
        "SELECT label, id, text, CASE given WHEN 'rationale' THEN rationale END FROM document "
        "WHERE state = 'pending' AND label NOT IN (SELECT value FROM json_each(?)) ORDER BY label LIMIT ?",
        (json.dumps(list(skip)), limit),
    )
    return [Pending(*row) for row in rows]


def pending_labels(connection: Connection, *, limit: int) -> Labels:
    """(N,) labels of documents that wait for their vectors, oldest first."""
    rows = connection.execute("SELECT label FROM document WHERE state = 'pending' ORDER BY label LIMIT ?", (limit,))
    return np.fromiter((row[0] for row in rows), dtype=np.int64)


def pending_among(connection: Connection, labels: Labels) -> list[Pending]:
    """Those of (N,) labels that still wait."""
    rows = connection.execute(
        "SELECT label, id, text, CASE given WHEN 'rationale' THEN rationale END FROM document "
        "WHERE state = 'pending' AND label IN (SELECT value FROM json_each(?)) ORDER BY label",
        (json.dumps(labels.tolist()),),
    )
    return [Pending(*row) for row in rows]


def counts(connection: Connection) -> Counts:
    """Documents by state, tombstones, and the last seq."""
    states = dict(connection.execute("SELECT state, count(*) FROM document GROUP BY state"))
    tombstones = connection.execute("SELECT count(*) FROM tombstone").fetchone()[0]
    return Counts(
        ready=states.get("ready", 0),
        pending=states.get("pending", 0),
        failed=states.get("failed", 0),
        cancelled=states.get("cancelled", 0),
        tombstones=tombstones,
        seq=last_seq(connection),
    )


def number_pending(connection: Connection) -> int:
    """How many documents wait for their vectors: counted by an index, where `counts` reads every row."""
    return int(connection.execute("SELECT count(*) FROM document WHERE state = 'pending'").fetchone()[0])


def last_seq(connection: Connection) -> int:
    """The number of the last change."""
    return int(connection.execute("SELECT seq FROM sequence").fetchone()[0])


def settings(connection: Connection) -> dict[str, str]:
    """What was decided when the collection was created, and is kept beside the documents."""
    return dict(connection.execute("SELECT key, value FROM setting"))


def aliases(connection: Connection) -> dict[str, int]:
    """Other names of the collection, with the stamp of when each was given."""
    return dict(connection.execute("SELECT name, stamp FROM alias"))


def _labels(connection: Connection, sql: str, parameters: Sequence[Any]) -> Labels:
    """Selected labels, ascending, each once."""
    return np.unique(np.fromiter((row[0] for row in connection.execute(sql, parameters)), dtype=np.int64))


def _document(row: tuple[Any, ...]) -> Document:
    return Document(
        label=row[0],
        id=row[1],
        state=row[2],
        seq=row[3],
        text=row[4],
        metadata=json.loads(row[5]),
        given=row[6],
        rationale=rationale_of(row[7], finish_reason=row[8], tokens=row[9], thinking_open=bool(row[10])),
        fingerprint=row[11],
        truncated=bool(row[12]),
        reason=row[13],
    )
