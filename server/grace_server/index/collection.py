"""One collection: SQLite as the truth, a vector index derived from it. Synchronous, safe from any thread.

A write is committed, applied to the index and then acknowledged; if applying fails, the index is read anew from SQLite.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from grace_server.index import jobs, lexical, metadata, reading, writing
from grace_server.index.checkpoint import Checkpoints, Identity
from grace_server.index.document import Document, StoredSums, check_documents
from grace_server.index.edges import Edges
from grace_server.index.errors import StoreDamaged, StoreUnavailable
from grace_server.index.faiss_index import FaissIndex, Work
from grace_server.index.faults import FaultPoint
from grace_server.index.filters import Clause
from grace_server.index.manifest import Manifest
from grace_server.index.mean import Mean, mean_vector
from grace_server.index.settings import CollectionSettings
from grace_server.index.store import CLOSED, Connection, Store
from grace_server.index.vector_index import Neighbours, VectorIndex, reconcile
from grace_server.index.vectors import Floats, Labels
from grace_server.index.writing import Change, Embedded

Result = TypeVar("Result")

DATABASE = "documents.sqlite"
CHECKPOINTS = "checkpoints"
FILTERS_CACHED = 16
JOBS_KEPT_S = 7 * 24 * 3600.0  # after they finished, until a compaction
BUILD_CHUNK = 512  # rows read at a time for a build: a larger chunk keeps searches waiting for the interpreter's lock
UNCHECKED_SHARE = 0.1  # a merge that adds less than this to the last checkpoint is not worth writing all of it again
WRITE_THREADS = 2  # one writes, the other checks meanwhile what is written next
RATIONALE_WEIGHT = 0.5  # of a word in the rationale, where one in the text counts 1: not yet measured


class Collection:
    """Open one with `create` or `open`; whoever opens closes."""

    def __init__(self, folder: Path, store: Store, edges: Edges) -> None:
        self.folder = folder
        self.store = store
        self._edges = edges
        values = store.read(reading.settings)
        if missing := {"id", "name", "settings", "created_at", "dimensions"} - set(values):
            raise StoreDamaged(f"{DATABASE} lacks the collection's {', '.join(sorted(missing))}: restore a snapshot")
        self.id, self.name = values["id"], values["name"]
        self.created_at = float(values["created_at"])
        self.settings = CollectionSettings.from_json(values["settings"])
        store.set_durability(self.settings.durability)
        if values.get("fields") != metadata.FORMAT:
            store.write(metadata.rebuild)
        self.dimensions = int(values["dimensions"])
        self.fingerprint = values.get("fingerprint")

        self.identity = Identity(self.id, self.dimensions, self.fingerprint, self.settings)
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, clock=edges.clock, faults=edges.faults)
        self.doubts: list[str] = []
        self.manifest: Manifest | None = None
        self._waiting_writes = ThreadPoolExecutor(WRITE_THREADS, f"write {self.name}")
        self._stale = threading.Event()
        self._stopping = threading.Event()
        self._applied = 0  # changes brought to the index; the writer thread counts
        self._filters: OrderedDict[tuple[Clause, int, int], Labels] = OrderedDict()
        self._filters_lock = threading.Lock()
        self._mean: Mean | None = None
        self.index: VectorIndex = self._loaded()

    @property
    def local(self) -> FaissIndex | None:
        """The vector index, if it is on this machine and ours to look after."""
        return self.index if isinstance(self.index, FaissIndex) else None

    def due(self) -> Work | None:
        """What `maintain` would do now."""
        return None if self.local is None else self.local.due()

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        name: str,
        settings: CollectionSettings,
        dimensions: int,
        fingerprint: str | None,  # None: takes ready vectors of any one model
        edges: Edges,
    ) -> None:
        """Write the database of a new, empty collection."""
        folder.mkdir(parents=True, mode=0o700)  # what it will hold is private
        values = {
            "id": edges.new_id(),
            "name": name,
            "settings": settings.to_json(),
            "created_at": repr(edges.clock()),
            "dimensions": str(dimensions),
            "fields": metadata.FORMAT,
        }
        if fingerprint is not None:
            values["fingerprint"] = fingerprint
        with contextlib.closing(Store(folder / DATABASE, clock=edges.clock, create=True, faults=edges.faults)) as store:
            store.write(lambda c: c.executemany("INSERT INTO setting VALUES (?, ?)", values.items()) and None)

    @classmethod
    def open(cls, folder: Path, edges: Edges) -> Collection:
        """Open a collection and its index: from a checkpoint that can be believed, or from the stored vectors.

        Raises:
            StoreDamaged: the database cannot be read.
        """
        store = Store(folder / DATABASE, clock=edges.clock, faults=edges.faults, max_pages=edges.max_pages)
        try:
            return cls(folder, store, edges)
        except BaseException:
            store.close()
            raise

    def on_write_thread(self, work: Callable[[], Result]) -> Future[Result]:
        """Run work that writes on threads of this collection's own: there it waits for the writer in nobody's way.

        Raises:
            StoreUnavailable: closed.
        """
        try:
            return self._waiting_writes.submit(work)
        except RuntimeError as error:
            raise StoreUnavailable(CLOSED) from error

    def upsert(self, documents: Sequence[Mapping[str, Any]]) -> tuple[str, Change]:
        """Write documents; returns the id of the job that embeds those without a vector. Durable when it returns.

        Raises:
            InvalidValue, TooLarge: naming the document and the field; nothing was written.
            StoreFull: nothing was written.
        """
        ready = check_documents(documents, dimensions=self.dimensions, normalize=self.settings.metric == "cosine")
        job, now = f"job-{self._edges.new_id()}", self._edges.clock()
        change = self._write(lambda c: writing.upsert(c, ready, job=job, fingerprint=self.fingerprint, now=now))
        return job, change

    def delete(self, ids: Iterable[str]) -> int:
        """Delete documents; how many there were. Deleting twice is no error."""
        return self._write(lambda c: writing.delete(c, ids, now=self._edges.clock())).documents

    def delete_matching(self, clause: Clause) -> int:
        """Delete all documents that a filter lets through; how many there were."""
        return self._write(lambda c: writing.delete_matching(c, clause, now=self._edges.clock())).documents

    def embedded(self, outcomes: Sequence[Embedded], *, fingerprint: str) -> Change:
        """Store what a model made of pending documents.

        Raises:
            ValueError: a vector is not as wide as the collection's; nothing was written.
        """
        if wrong := {outcome.vector.shape for outcome in outcomes} - {(self.dimensions,)}:
            raise ValueError(f"vectors of shape {wrong} do not belong in an index of {self.dimensions} dimensions")
        return self._write(lambda c: writing.embed(c, outcomes, fingerprint=fingerprint, now=self._edges.clock()))

    def failed(self, label: int, reason: str) -> None:
        """Record that a pending document cannot be embedded."""
        self.store.write(lambda c: writing.fail(c, label, reason, now=self._edges.clock()))

    def pending(self, *, limit: int, skip: Sequence[int] = ()) -> list[reading.Pending]:
        """Documents that wait for their vectors, oldest first."""
        return self.store.read(lambda c: reading.pending(c, limit=limit, skip=skip))

    def get(self, document: str) -> Document | None:
        """One document, in whichever state."""
        return self.store.read(lambda c: reading.by_id(c, document))

    def documents(self, labels: Labels) -> dict[int, Document]:
        """Those of the labels that are still there."""
        return self.store.read(lambda c: reading.by_label(c, labels))

    def documents_after(self, labels: Labels, passed_over: int) -> dict[int, Document]:
        """Those of (N,) labels that are still there, but for the first so many, whose texts are not read."""

        def work(connection: Connection) -> dict[int, Document]:
            wanted = reading.still_there(connection, labels)[passed_over:] if passed_over else labels
            return reading.by_label(connection, wanted)

        return self.store.read(work)

    def page(
        self, *, after: str = "", limit: int = 100, clause: Clause | None = None, state: str | None = None
    ) -> list[Document]:
        """Documents in the order of their ids."""
        return self.store.read(lambda c: reading.page(c, after=after, limit=limit, clause=clause, state=state))

    def sums(self, label: int) -> StoredSums | None:
        """What explanations of a document are computed from."""
        return self.store.read(lambda c: reading.sums(c, label))

    def vectors(self, labels: Labels) -> Floats:
        """(M, H) stored vectors of those of the labels that are still there."""
        return self._fetch(labels)[1]

    def vector(self, label: int) -> list[float]:
        """The stored vector of a document, as numbers."""
        [row] = self.vectors(np.array([label], dtype=np.int64)).tolist()
        return list(row)

    def mean(self) -> Mean:
        """The mean of all vectors, computed again once more than 1 % of the documents have changed."""
        if self._mean is None or not self._mean.serves(self.store.read(reading.last_seq)):
            self._mean = self.store.read(lambda c: mean_vector(c, dimensions=self.dimensions))
        return self._mean

    def job(self, job: str) -> jobs.IndexJob | None:
        """A job's progress, or None."""
        return self.store.read(lambda c: jobs.find_job(c, job))

    def cancel(self, job: str) -> None:
        """Stop a job; what is not embedded stays, as `cancelled`."""
        self.store.write(lambda c: jobs.cancel(c, job, now=self._edges.clock()))

    def dense(self, queries: Floats, k: int, clause: Clause | None = None) -> list[Neighbours]:
        """The k nearest documents of each of (Q, H) queries."""
        self._freshen()
        return self.index.search(queries, k, allowed=None if clause is None else self._allowed(clause))

    def lexical(self, query: str, k: int, clause: Clause | None = None) -> Neighbours:
        """The k best documents by BM25 over text and rationale."""
        return self.store.read(
            lambda c: lexical.search_words(c, query, k=k, clause=clause, rationale_weight=RATIONALE_WEIGHT)
        )

    def aliases(self) -> dict[str, int]:
        """Other names of this collection, with the stamp of when each was given."""
        return self.store.read(reading.aliases)

    def set_alias(self, name: str, stamp: int | None) -> None:
        """Take a name, or give it up if `stamp` is None."""

        def change(connection: Connection) -> None:
            connection.execute("DELETE FROM alias WHERE name = ?", (name,))
            if stamp is not None:
                connection.execute("INSERT INTO alias VALUES (?, ?)", (name, stamp))

        self.store.write(change)

    def maintain(self, work: Work | None = None) -> Work | None:
        """Do what is due for the vector index (or `work`); then write a checkpoint, if much has changed since the last.

        Searches and writes go on.

        Raises:
            Stopped: the collection is being closed.
            OSError: the checkpoint could not be written; the index itself is up to date.
        """
        self._freshen()
        work = work or self.due()
        if work is None or (local := self.local) is None:
            return None
        local.maintain(work, self._chunks, stop=self._stopping.is_set, exclusively=self._exclusively)
        if (base := local.base) is None:
            self.checkpoints.forget()
            self.manifest = None
        elif work != "merge" or self.manifest is None or len(base) > (1 + UNCHECKED_SHARE) * self.manifest.rows:
            # Read only now, for the build took in what was committed meanwhile: a database without it, as after a
            # power cut under NORMAL, must not believe the checkpoint.
            self.manifest = self.checkpoints.save(base, self.identity, covers_seq=self.store.read(reading.last_seq))
        return work

    def compact(self) -> None:
        """Rebuild the index without its dead rows, drop tombstones and old jobs, give space back to the disk.

        Afterwards no file of it holds a word of a deleted document.
        """
        if self.local is not None and self.local.base is not None:
            self.maintain("rebuild")
        self.store.write(writing.bury)
        self.store.write(lambda c: jobs.forget_old(c, before=self._edges.clock() - JOBS_KEPT_S))
        self.store.write(lexical.optimise)
        self.store.vacuum()

    def reload(self) -> None:
        """Throw the index away and read it again from SQLite."""
        self._exclusively(self._read_anew)

    def close(self) -> None:
        """Finish writes under way, stop a build under way, let go of everything."""
        self._stopping.set()
        self.store.close()
        self._waiting_writes.shutdown()
        self.index.close()

    def _write(self, work: Callable[[Connection], Change]) -> Change:
        return self.store.write(work, self._apply)

    def _apply(self, change: Change) -> None:
        """Bring the index up to a commit. Runs on the writer thread, so in the order of commits."""
        try:
            self._edges.faults(FaultPoint.AFTER_COMMIT)
            self.index.remove(change.removed)
            if change.vectors is not None:
                self.index.add(change.added, change.vectors)
            self._applied += 1
        except BaseException:
            self._stale.set()  # the truth has it: read the index anew before the next search
            raise

    def _freshen(self) -> None:
        if self._stale.is_set():
            # Of several searches that come at once the first does it for all.
            self._exclusively(lambda: self._read_anew() if self._stale.is_set() else None)

    def _read_anew(self) -> None:
        self.index = self._loaded()
        self._applied += 1
        self._stale.clear()

    def _exclusively(self, act: Callable[[], None]) -> None:
        def then(_: None) -> None:
            self._edges.faults(FaultPoint.INDEX_SWAP)
            act()

        self.store.write(lambda _: None, then)

    def _loaded(self) -> VectorIndex:
        if self._edges.vector_index is not None:
            elsewhere = self._edges.vector_index(self.id, self.dimensions)
            reconcile(elsewhere, self.store.read(reading.searchable), self._fetch)
            return elsewhere
        with self.store.reading() as connection:
            live = reading.searchable(connection)
            base, self.manifest, doubts = self.checkpoints.load(self.identity, last_seq=reading.last_seq(connection))
            self.doubts = doubts
            index = FaissIndex(self.dimensions, self.settings, self._fetch, base=base)
            if base is None:
                index.load(live, lambda: reading.all_vectors(connection, dimensions=self.dimensions))
            else:
                missing = np.setdiff1d(live, base.labels, assume_unique=True)
                index.load(live, lambda: [reading.vectors(connection, missing, dimensions=self.dimensions)])
        return index

    def _fetch(self, labels: Labels) -> tuple[Labels, Floats]:
        return self.store.read(lambda c: reading.vectors(c, labels, dimensions=self.dimensions))

    def _chunks(self) -> Iterable[tuple[Labels, Floats]]:
        with self.store.reading() as connection:
            yield from reading.all_vectors(connection, dimensions=self.dimensions, chunk=BUILD_CHUNK)

    def _allowed(self, clause: Clause) -> Labels:
        """Labels that a filter lets through, remembered until the next change.

        A change is in the database a moment before it is in the index, whose labels a negated filter begins from: what
        was found in that moment must not be remembered beyond it.
        """
        applied = self._applied
        with self.store.reading() as connection:
            key = (clause, reading.last_seq(connection), applied)
            with self._filters_lock:
                if (cached := self._filters.get(key)) is not None:
                    self._filters.move_to_end(key)
                    return cached
            labels = reading.allowed(connection, clause, None if self.local is None else self.local.labels)
        with self._filters_lock:
            self._filters[key] = labels
            while len(self._filters) > FILTERS_CACHED:
                self._filters.popitem(last=False)
        return labels
