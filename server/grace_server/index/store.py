"""The only file that says sqlite3 for an index: connections, the one writer thread, transactions, migrations.

A write is one function run in one transaction on the one writer thread:

    begin immediate -> work -> commit (WAL, synchronous=FULL: on the disk) -> applied to the index -> acknowledged

Readers have their own connections and never wait for the writer. SQL itself lives with the tables it is about
(`writing.py`, `reading.py`, `jobs.py`, `lexical.py`), which see a `Connection` and nothing else of SQLite.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from grace_server.index.errors import StoreDamaged, StoreFull, StoreUnavailable
from grace_server.index.faults import FaultPoint, Faults, no_faults
from grace_server.index.schema import migrations

Connection = sqlite3.Connection
Result = TypeVar("Result")
Task = tuple[Callable[[Connection], Any], Callable[[Any], None], "Future[Any]"]

APPLICATION_ID = 0x47524143  # "GRAC": what `file` shows, and what keeps a foreign database out
BUSY_TIMEOUT_S = 30.0
CACHE_KIB = 16_384  # per connection
CLOSED = "the index was closed or deleted just now"
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)  # what reading a database of somebody else's may raise


class Store:
    """One database file: any number of readers, one writer."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        create: bool = False,
        faults: Faults = no_faults,
        max_pages: int | None = None,  # of 8 KiB; a quota, and how tests fill the disk
    ) -> None:
        self.path = path
        self._faults = faults
        self._readers: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._closed = False
        # Held for a look at `_closed` and what follows from it: after the end of the queue nothing is put, and nobody
        # waits for it.
        self._closing = threading.Lock()
        if not create and (not path.exists() or path.stat().st_size == 0):
            raise StoreDamaged(f"{path.name} is missing or empty: restore a snapshot")
        with translated(path):
            self._writer = self._connect()
            _migrate(self._writer, clock)
            if max_pages is not None:
                self._writer.execute(f"PRAGMA max_page_count = {int(max_pages)}")
        self._thread = threading.Thread(target=self._write_all, name=f"writer {path.parent.name}", daemon=True)
        self._thread.start()

    def set_durability(self, synchronous: str) -> None:
        """Set SQLite's `synchronous`. Before the first write: it cannot change within a transaction."""
        self._writer.execute(f"PRAGMA synchronous = {'NORMAL' if synchronous == 'NORMAL' else 'FULL'}")

    def write(self, work: Callable[[Connection], Result], then: Callable[[Result], None] = lambda _: None) -> Result:
        """Run `work` in one transaction; return once it is committed and `then` has run. Order of commits = of `then`.

        Raises:
            StoreFull: nothing of it was kept.
            StoreUnavailable: closed.
            Exception: whatever `work` raises; the transaction was rolled back.
        """
        done: Future[Result] = Future()
        with self._closing:
            if self._closed:
                raise StoreUnavailable(CLOSED)
            self._tasks.put((work, then, done))
        return done.result()

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` over one consistent state of the database, on a connection that cannot write."""
        with self.reading() as connection:
            return work(connection)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one consistent state for as long as the block lasts, and cannot write."""
        if self._closed:
            raise StoreUnavailable(CLOSED)
        with translated(self.path):
            connection = self._reader()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                with self._closing:
                    if self._closed:
                        connection.close()  # `close` leaves a connection in use to the one who uses it
                    else:
                        self._readers.put(connection)

    def sync(self) -> None:
        """Make durable what is committed: with `synchronous` NORMAL it is only once the WAL is folded into the file.

        Raises:
            StoreUnavailable: the disk fails.
        """
        # SQLite locks the database and its -shm, never the -wal: closing that again lets go of no lock.
        try:
            with self.path.with_name(f"{self.path.name}-wal").open("rb") as log:
                os.fsync(log.fileno())
        except FileNotFoundError:
            pass  # all is in the file
        except OSError as error:
            raise StoreUnavailable(f"the store cannot be used: {error.strerror or error}") from error

    def copy_to(self, path: Path) -> None:
        """A compact copy of the database as it is now. `path` must not exist."""
        with translated(self.path), contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("VACUUM INTO ?", (str(path),))

    def vacuum(self) -> None:
        """Give back the space of deleted rows. Takes as long as copying the file; searches go on."""
        with (
            translated(self.path),
            contextlib.closing(sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)) as connection,
        ):
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def complaints(self) -> list[str]:
        """What SQLite's own checks find wrong with the file, its references and its text index; empty if nothing."""
        with self.reading() as connection:
            found = [row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]
            found += [f"row of {row[0]} without its document" for row in connection.execute("PRAGMA foreign_key_check")]
        return found

    def schema(self) -> set[tuple[str, str, str]]:
        """Kind, name and SQL of everything in the database."""
        with self.reading() as connection:
            rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema").fetchall()
        return {(kind, name, sql) for kind, name, sql in rows if not name.startswith("sqlite_stat")}

    def text_index_is_right(self) -> bool:
        """Whether the FTS5 index agrees with the texts it was made from."""

        def check(connection: Connection) -> bool:
            try:
                connection.execute("INSERT INTO lexical (lexical, rank) VALUES ('integrity-check', 1)")
            except sqlite3.DatabaseError:
                return False
            return True

        return self.write(check)

    def rebuild_text_index(self) -> None:
        """Make the FTS5 index anew from the texts."""
        self.write(lambda connection: connection.execute("INSERT INTO lexical (lexical) VALUES ('rebuild')") and None)

    def close(self) -> None:
        """Finish what is queued, then close. A second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._tasks.put(None)
        self._thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                self._readers.get_nowait().close()
        # Last of all, so that closing it folds the WAL into the file.
        self._writer.close()

    def _write_all(self) -> None:
        while (task := self._tasks.get()) is not None:
            work, then, done = task
            if not done.set_running_or_notify_cancel():
                continue
            try:
                with translated(self.path):
                    result = self._transact(work)
                then(result)
            except BaseException as error:  # noqa: BLE001 - it is the caller's, who waits for it
                done.set_exception(error)
            else:
                done.set_result(result)

    def _transact(self, work: Callable[[Connection], Result]) -> Result:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            result = work(self._writer)
            self._faults(FaultPoint.BEFORE_COMMIT)
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise
        return result

    def _reader(self) -> Connection:
        try:
            return self._readers.get_nowait()
        except queue.Empty:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
            return connection

    def _connect(self) -> Connection:
        connection = sqlite3.connect(
            self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA page_size = 8192")  # of a new file: five vectors of 384 dimensions to a page
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        return connection


@contextlib.contextmanager
def looking_at(path: Path) -> Iterator[Connection]:
    """One consistent state of a database that another process on this machine has open; nothing can be written."""
    with translated(path), contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        yield connection


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Give SQLite's errors our names."""
    try:
        yield
    except sqlite3.Error as error:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_FULL:
                raise StoreFull("the disk (or the quota) is full: nothing of this request was kept") from error
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_BUSY:
                raise StoreUnavailable(f"the store cannot be used: {error}") from error
            case 0 if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
                raise StoreUnavailable(CLOSED) from error
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                raise StoreDamaged(f"{path.name} is damaged ({error}): restore a snapshot") from error
            case _:
                raise


def _migrate(connection: Connection, clock: Callable[[], float]) -> None:
    """Bring the schema up to date: each migration and its record in one transaction.

    Raises:
        StoreDamaged: the file is another program's, a newer version's, or was made by an edited migration.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise StoreDamaged("this database was not made by GRACE")
    if application != APPLICATION_ID:  # to set it writes a page, also where it is the same
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS migration "
        "(number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at REAL NOT NULL) STRICT"
    )
    applied = dict(connection.execute("SELECT number, sha256 FROM migration"))
    known = migrations()
    if applied and max(applied) > len(known):
        raise StoreDamaged(f"the collection has schema {max(applied)}, this version knows {len(known)}: upgrade")
    for step in known:
        if step.number in applied:
            if applied[step.number] != step.sha256:
                raise StoreDamaged(f"migration {step.number} differs from the one this collection was made with")
            continue
        connection.execute("BEGIN IMMEDIATE")
        for statement in _statements(step.sql):
            connection.execute(statement)
        connection.execute("INSERT INTO migration VALUES (?, ?, ?, ?)", (step.number, step.name, step.sha256, clock()))
        connection.execute("COMMIT")


def _statements(sql: str) -> Iterator[str]:
    """One statement at a time: `executescript` would commit in between."""
    pending = ""
    for line in sql.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
