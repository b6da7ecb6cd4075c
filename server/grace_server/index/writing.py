"""SQL of the writes to documents. Each function runs inside one transaction of the writer and says what it changed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from grace.representation import Rationale, Segment
from grace_server.index import jobs, lexical, metadata
from grace_server.index.document import DocumentInput
from grace_server.index.filters import Clause
from grace_server.index.store import Connection
from grace_server.index.vectors import Floats, Labels, Precision, to_blob


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a committed transaction means for the vector index, and how many documents it was about."""

    added: Labels  # (N,)
    vectors: Floats | None  # (N, H); None if nothing was added
    removed: Labels
    documents: int
    unchanged: int = 0
    embedding: int = 0  # documents that a job has to embed now


@dataclass(frozen=True, slots=True, eq=False)
class Embedded:
    """The outcome of embedding one pending document."""

    label: int
    vector: Floats  # (H,)
    rationale: Rationale | None
    thinking_open: bool
    truncated: bool
    segments: tuple[Segment, ...]
    sums: Floats | None  # (S, H); None where the collection keeps none
    precision: Precision = "float32"


def upsert(
    connection: Connection, documents: Sequence[DocumentInput], *, job: str, fingerprint: str | None, now: float
) -> Change:
    """Write a batch of documents with distinct ids, and the job that will embed those that need it.

    A document sent again unchanged costs nothing, one whose metadata alone changed keeps its vector, any other gets
    a new label. What failed or was cancelled is tried again.
    """
    before = _stored(connection, [document.id for document in documents])
    seq = _take_seq(connection, len(documents)) - len(documents)
    label = _last_label(connection)
    rows, vectors, removed, replaced, fields = [], [], [], [], []
    unchanged = embedding = 0
    moved: dict[str, int] = defaultdict(int)  # pending documents that leave an earlier job
    for document in documents:
        seq += 1
        old = before.get(document.id)
        if old is not None and old.state in ("pending", "ready") and old.content == document.content:
            if old.metadata != document.metadata:
                connection.execute(
                    "UPDATE document SET metadata = ?, seq = ? WHERE label = ?", (document.metadata, seq, old.label)
                )
                metadata.remove(connection, [(old.label, old.metadata)])
                fields.append((old.label, document.entries))
            else:
                unchanged += 1
            if old.state == "pending":
                moved[old.job] += 1
                connection.execute("UPDATE document SET job = ? WHERE label = ?", (job, old.label))
                embedding += 1
            continue
        if old is not None:
            replaced.append(old)
            if old.state == "ready":
                removed.append((old.label, seq))
            elif old.state == "pending":
                moved[old.job] += 1
        label += 1
        ready = document.vector is not None
        embedding += not ready
        rows.append(
            (
                label,
                document.id,
                "ready" if ready else "pending",
                seq,
                None if ready else job,
                document.content,
                document.given,
                fingerprint if ready else None,
                None if document.rationale is None else "given",
                document.metadata,
                document.text,
                document.rationale or "",
            )
        )
        fields.append((label, document.entries))
        if document.vector is not None:
            vectors.append((label, document.vector))
    _drop(connection, replaced)
    connection.executemany("INSERT INTO tombstone VALUES (?, ?)", removed)
    connection.executemany(
        "INSERT INTO document (label, id, state, seq, job, content, given, fingerprint, finish_reason, metadata, text, "
        "rationale) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    lexical.add(connection, [row[0] for row in rows])
    metadata.add(connection, fields)
    connection.executemany("INSERT INTO vector VALUES (?, ?)", [(one, to_blob(vector)) for one, vector in vectors])
    for earlier, number in moved.items():
        jobs.count(connection, earlier, superseded=number, now=now)
    jobs.open_job(connection, job, total=len(documents), done=len(documents) - embedding, now=now)
    return Change(
        added=np.array([one for one, _ in vectors], dtype=np.int64),
        vectors=np.stack([vector for _, vector in vectors]) if vectors else None,
        removed=np.array([one for one, _ in removed], dtype=np.int64),
        documents=len(documents),
        unchanged=unchanged,
        embedding=embedding,
    )


def delete(connection: Connection, ids: Iterable[str], *, now: float) -> Change:
    """Delete documents by id; ids that are not there are passed over."""
    return _delete(connection, list(_stored(connection, list(ids)).values()), now=now)


def delete_matching(connection: Connection, clause: Clause, *, now: float) -> Change:
    """Delete every document that a filter lets through, in whichever state."""
    sql = f"SELECT label, id, state, content, metadata, job FROM document WHERE {clause.sql}"
    return _delete(connection, [_Stored(*row) for row in connection.execute(sql, clause.parameters)], now=now)


def embed(connection: Connection, outcomes: Sequence[Embedded], *, fingerprint: str, now: float) -> Change:
    """Give pending documents their vectors. Those deleted, replaced or cancelled in the meantime are passed over."""
    waiting = _pending(connection, [outcome.label for outcome in outcomes])
    fresh = [outcome for outcome in outcomes if outcome.label in waiting]
    seq = _take_seq(connection, len(fresh)) - len(fresh)
    by_job: dict[str, int] = defaultdict(int)
    reworded = [outcome.label for outcome in fresh if outcome.rationale is not None]
    lexical.remove(connection, reworded)
    for i, outcome in enumerate(fresh, start=1):
        written = outcome.rationale
        connection.execute(
            "UPDATE document SET state = 'ready', seq = ?, fingerprint = ?, truncated = ? WHERE label = ?",
            (seq + i, fingerprint, outcome.truncated, outcome.label),
        )
        if written is not None:
            connection.execute(
                "UPDATE document SET rationale = ?, finish_reason = ?, rationale_tokens = ?, thinking_open = ? "
                "WHERE label = ?",
                (written.text, written.finish_reason, written.tokens, outcome.thinking_open, outcome.label),
            )
        connection.execute("INSERT INTO vector VALUES (?, ?)", (outcome.label, to_blob(outcome.vector)))
        if outcome.sums is not None:
            spans = json.dumps([[s.source, s.start, s.end, s.tokens] for s in outcome.segments])
            connection.execute(
                "INSERT INTO segment VALUES (?, ?, ?, ?)",
                (outcome.label, spans, outcome.precision, to_blob(outcome.sums, outcome.precision)),
            )
        by_job[waiting[outcome.label][0]] += 1
    lexical.add(connection, reworded)
    for job, number in by_job.items():
        jobs.count(connection, job, done=number, now=now)
    return Change(
        added=np.array([outcome.label for outcome in fresh], dtype=np.int64),
        vectors=np.stack([outcome.vector for outcome in fresh]) if fresh else None,
        removed=np.empty(0, np.int64),
        documents=len(fresh),
    )


def fail(connection: Connection, label: int, reason: str, *, now: float) -> None:
    """Record why a pending document cannot be embedded. It stays, and words still find it."""
    waiting = _pending(connection, [label])
    if label not in waiting:
        return
    job, document = waiting[label]
    connection.execute(
        "UPDATE document SET state = 'failed', seq = ? WHERE label = ?", (_take_seq(connection, 1), label)
    )
    jobs.record_failure(connection, job, document=document, reason=reason)
    jobs.count(connection, job, failed=1, now=now)


def bury(connection: Connection) -> int:
    """Drop the tombstones; how many there were. For after a compaction, when no checkpoint names their labels."""
    return connection.execute("DELETE FROM tombstone").rowcount


@dataclass(frozen=True, slots=True)
class _Stored:
    label: int
    id: str
    state: str
    content: bytes
    metadata: str
    job: str


def _stored(connection: Connection, ids: list[str]) -> dict[str, _Stored]:
    rows = connection.execute(
        "SELECT label, id, state, content, metadata, job FROM document WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids, ensure_ascii=False),),
    )
    return {row[1]: _Stored(*row) for row in rows}


def _pending(connection: Connection, labels: list[int]) -> dict[int, tuple[str, str]]:
    """Job and id of those labels that are still waiting for their vector."""
    rows = connection.execute(
        "SELECT label, job, id FROM document WHERE state = 'pending' AND label IN (SELECT value FROM json_each(?))",
        (json.dumps(labels),),
    )
    return {label: (job, document) for label, job, document in rows}


def _delete(connection: Connection, doomed: list[_Stored], *, now: float) -> Change:
    seq = _take_seq(connection, len(doomed)) - len(doomed)
    buried = [(old.label, seq + i) for i, old in enumerate(doomed, start=1) if old.state == "ready"]
    _drop(connection, doomed)
    connection.executemany("INSERT INTO tombstone VALUES (?, ?)", buried)
    by_job: dict[str, int] = defaultdict(int)
    for old in doomed:
        if old.state == "pending":
            by_job[old.job] += 1
    for job, number in by_job.items():
        jobs.count(connection, job, superseded=number, now=now)
    return Change(
        added=np.empty(0, np.int64),
        vectors=None,
        removed=np.array([label for label, _ in buried], dtype=np.int64),
        documents=len(doomed),
    )


def _drop(connection: Connection, doomed: Sequence[_Stored]) -> None:
    metadata.remove(connection, [(old.label, old.metadata) for old in doomed])
    labels = [old.label for old in doomed]
    lexical.remove(connection, labels)
    connection.execute("DELETE FROM document WHERE label IN (SELECT value FROM json_each(?))", (json.dumps(labels),))


def _take_seq(connection: Connection, number: int) -> int:
    """Move the sequence on; the last of the numbers taken. They grow with every change and never repeat."""
    row = connection.execute("UPDATE sequence SET seq = seq + ? RETURNING seq", (number,)).fetchone()
    return int(row[0])


def _last_label(connection: Connection) -> int:
    """The largest label ever given out, also if its document is gone."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'document'").fetchone()
    return int(row[0]) if row else 0
