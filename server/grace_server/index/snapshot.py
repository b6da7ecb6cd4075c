"""Snapshots: one tar file with a compact copy of the database and a manifest. Vector indexes are not in it, they are
derived. Restoring always makes a new collection; switch an alias when you have looked at it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from grace_server.index import jobs, reading
from grace_server.index.catalog import NEW, Catalog, check_name
from grace_server.index.collection import DATABASE, Collection
from grace_server.index.durable import Steps, sha256_of, write_durably
from grace_server.index.edges import Edges
from grace_server.index.errors import Conflict, StoreDamaged
from grace_server.index.faults import FaultPoint
from grace_server.index.store import UNREADABLE, Connection, Store

FORMAT = 1
MANIFEST = "manifest.json"
_CHUNK = 1 << 20
_MAX_MANIFEST = 64 * 1024
_STEPS = Steps(
    FaultPoint.SNAPSHOT_COPY, FaultPoint.SNAPSHOT_COPY, FaultPoint.SNAPSHOT_RENAME, FaultPoint.SNAPSHOT_RENAME
)


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What a snapshot holds."""

    format: int
    collection: str
    name: str
    rows: int
    seq: int
    fingerprint: str | None
    dimensions: int
    file_bytes: int
    sha256: str
    written_at: float  # seconds since 1970


def take_snapshot(collection: Collection, path: Path, edges: Edges) -> SnapshotManifest:
    """Write a snapshot of a collection as it is now. Searches and writes go on.

    Raises:
        Conflict: there is a file of that name.
        OSError: the disk is full or fails; nothing is left behind.
    """
    if path.exists():
        raise Conflict(f"{path} is there already", param="path")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".snapshot-") as folder:
        copy = Path(folder) / DATABASE
        collection.store.copy_to(copy)
        store = Store(copy, clock=edges.clock)
        counts = store.read(reading.counts)
        store.close()
        manifest = SnapshotManifest(
            format=FORMAT,
            collection=collection.id,
            name=collection.name,
            rows=counts.ready,
            seq=counts.seq,
            fingerprint=collection.fingerprint,
            dimensions=collection.dimensions,
            file_bytes=copy.stat().st_size,
            sha256=sha256_of(copy),
            written_at=edges.clock(),
        )
        write_durably(path, lambda write: _pack(write, manifest, copy), steps=_STEPS, faults=edges.faults)
    return manifest


def restore_snapshot(catalog: Catalog, path: Path, name: str) -> Collection:
    """Make a new collection out of a snapshot.

    Raises:
        StoreDamaged: it is no snapshot, damaged, or holds a database with things of its own (triggers, views); or an
            index that cannot be opened has the name.
        Conflict: the name is taken.
    """
    check_name(name)
    catalog.check_free(name)
    half = catalog.folder / f"{NEW}{catalog.edges.new_id()}"
    half.mkdir(mode=0o700)  # what it will hold is private
    try:
        _unpack(path, half / DATABASE)
        _adapt(half, name, catalog.edges)
        catalog.edges.faults(FaultPoint.RESTORE_RENAME)
        return catalog.adopt(half, name)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


class _Sink:
    """The one method of a file that tarfile needs to write a stream."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def write(self, block: bytes) -> int:
        self._write(bytes(block))
        return len(block)


def _pack(write: Callable[[bytes], None], manifest: SnapshotManifest, copy: Path) -> None:
    sink: Any = _Sink(write)
    with tarfile.open(fileobj=sink, mode="w|", bufsize=_CHUNK) as tar:
        described = json.dumps(asdict(manifest), indent=2).encode()
        for name, size in ((MANIFEST, len(described)), (DATABASE, manifest.file_bytes)):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = size, int(manifest.written_at)
            if name == MANIFEST:
                tar.addfile(member, BytesIO(described))
            else:
                with copy.open("rb") as file:
                    tar.addfile(member, file)


def _unpack(path: Path, target: Path) -> SnapshotManifest:
    """Copy the database out. Names in the archive are compared, never used."""
    try:
        with tarfile.open(path, mode="r|") as tar:
            manifest = _manifest(_member(tar, MANIFEST).read(_MAX_MANIFEST))
            digest, size, source = hashlib.sha256(), 0, _member(tar, DATABASE)
            with target.open("wb") as file:
                while block := source.read(_CHUNK):
                    digest.update(block)
                    size += file.write(block)
    except (tarfile.TarError, EOFError) as error:
        raise StoreDamaged(f"{path.name} is no snapshot: {error}", retry_after=None) from error
    if (size, digest.hexdigest()) != (manifest.file_bytes, manifest.sha256):
        raise StoreDamaged(f"{path.name} is damaged: its database is not the one it was made with", retry_after=None)
    return manifest


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    member = tar.next()
    if member is None or member.name != name or not member.isreg():
        raise StoreDamaged(f"the snapshot has no {name} where it belongs", retry_after=None)
    file = tar.extractfile(member)
    assert file is not None  # of a regular file it never is
    return file


def _manifest(data: bytes) -> SnapshotManifest:
    try:
        read = json.loads(data)
        manifest = SnapshotManifest(**read)
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreDamaged(f"the snapshot's manifest cannot be read: {error}", retry_after=None) from error
    if manifest.format != FORMAT:
        raise StoreDamaged(f"the snapshot has format {manifest.format}, this version reads {FORMAT}", retry_after=None)
    return manifest


def _adapt(half: Path, name: str, edges: Edges) -> None:
    """Check a restored database, and give it an identity of its own."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Store(Path(folder) / DATABASE, clock=edges.clock, create=True)
        expected = fresh.schema()
        fresh.close()
    try:
        with closing(Store(half / DATABASE, clock=edges.clock)) as store:
            if store.schema() != expected:
                raise StoreDamaged("the snapshot's database has another schema than ours", retry_after=None)
            if complaints := store.complaints():
                raise StoreDamaged(f"the snapshot's database is damaged: {complaints[0]}", retry_after=None)
            store.write(lambda c: _rename(c, name, edges.new_id))
    # What SQLite does not call damage: a format it does not know, an encoding that is not the one of its texts.
    except UNREADABLE as error:
        raise StoreDamaged(f"the snapshot's database is damaged: {error}", retry_after=None) from error


def _rename(connection: Connection, name: str, new_id: Callable[[], str]) -> None:
    connection.executemany("UPDATE setting SET value = ? WHERE key = ?", [(new_id(), "id"), (name, "name")])
    connection.execute("DELETE FROM alias")
    jobs.take_new_ids(connection, lambda: f"job-{new_id()}")
