"""Jobs: the embedding work that a request left behind. SQL over `job` and `job_failure`, and the value they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from grace_server.index.store import Connection

JobState = Literal["running", "done", "cancelled"]
MAX_FAILURES_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class JobFailure:
    """A document that could not be embedded. It stays in the collection, found by its words alone."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class IndexJob:
    """Progress of one job. `total` = `done` + `failed` + `superseded` + what is left."""

    id: str
    created_at: float  # seconds since 1970
    finished_at: float | None
    cancelled_at: float | None
    total: int
    done: int
    failed: int
    superseded: int
    failures: tuple[JobFailure, ...]

    @property
    def left(self) -> int:
        """Documents still to be embedded."""
        return self.total - self.done - self.failed - self.superseded

    @property
    def state(self) -> JobState:
        """`done` also when some documents failed: nothing more will happen."""
        if self.cancelled_at is not None:
            return "cancelled"
        return "running" if self.finished_at is None else "done"


def open_job(connection: Connection, job: str, *, total: int, done: int, now: float) -> None:
    """Record a job of `total` documents, of which `done` need nothing."""
    finished = now if done == total else None
    connection.execute(
        "INSERT INTO job (id, created_at, finished_at, total, done) VALUES (?, ?, ?, ?, ?)",
        (job, now, finished, total, done),
    )


def count(connection: Connection, job: str, *, now: float, done: int = 0, failed: int = 0, superseded: int = 0) -> None:
    """Add to a job's counters, and finish it when nothing is left."""
    connection.execute(
        "UPDATE job SET done = done + ?, failed = failed + ?, superseded = superseded + ? WHERE id = ?",
        (done, failed, superseded, job),
    )
    connection.execute(
        "UPDATE job SET finished_at = ? WHERE id = ? AND finished_at IS NULL AND done + failed + superseded >= total",
        (now, job),
    )


def record_failure(connection: Connection, job: str, *, document: str, reason: str) -> None:
    """Keep why a document could not be embedded."""
    connection.execute("INSERT OR REPLACE INTO job_failure VALUES (?, ?, ?)", (job, document, reason))


def find_job(connection: Connection, job: str) -> IndexJob | None:
    """A job with its first 1,000 failures, or None."""
    row: tuple[str, float, float | None, float | None, int, int, int, int] | None = connection.execute(
        "SELECT id, created_at, finished_at, cancelled_at, total, done, failed, superseded FROM job WHERE id = ?",
        (job,),
    ).fetchone()
    if row is None:
        return None
    failures = connection.execute(
        "SELECT document, reason FROM job_failure WHERE job = ? ORDER BY document LIMIT ?", (job, MAX_FAILURES_SHOWN)
    )
    return IndexJob(*row, failures=tuple(JobFailure(*failure) for failure in failures))


def cancel(connection: Connection, job: str, *, now: float) -> None:
    """Stop a job: what is not yet embedded stays in the collection as `cancelled`, until it is sent again."""
    unfinished = connection.execute("SELECT 1 FROM job WHERE id = ? AND finished_at IS NULL", (job,)).fetchone()
    if unfinished is None:
        return
    connection.execute("UPDATE document SET state = 'cancelled' WHERE job = ? AND state = 'pending'", (job,))
    connection.execute("UPDATE job SET cancelled_at = ?, finished_at = ? WHERE id = ?", (now, now, job))


def forget_old(connection: Connection, *, before: float) -> None:
    """Drop records of jobs that finished before a moment, but for those that hold the reasons of failures."""
    connection.execute("DELETE FROM job WHERE finished_at < ? AND failed = 0", (before,))


def take_new_ids(connection: Connection, new_id: Callable[[], str]) -> None:
    """Make the jobs of a copied database its own: nobody asks for those that are done, the others get new ids.

    A job is looked for by its id alone, in every collection: two of one id would be taken for each other.
    """
    forget_old(connection, before=math.inf)
    connection.execute("PRAGMA defer_foreign_keys = ON")  # until the commit: failures go with their job
    for (old,) in connection.execute("SELECT id FROM job").fetchall():
        new = new_id()
        connection.execute("UPDATE job SET id = ? WHERE id = ?", (new, old))
        connection.execute("UPDATE job_failure SET job = ? WHERE job = ?", (new, old))
        connection.execute("UPDATE document SET job = ? WHERE job = ?", (new, old))
