"""What there is to know about a collection, in one value."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from grace_server.index import reading
from grace_server.index.approximate import kind_of
from grace_server.index.collection import DATABASE, Collection
from grace_server.index.durable import bytes_in
from grace_server.index.settings import CollectionSettings


@dataclass(frozen=True, slots=True)
class Description:
    """What there is to know about a collection."""

    name: str
    id: str
    aliases: tuple[str, ...]
    settings: CollectionSettings
    dimensions: int
    fingerprint: str | None
    created_at: float  # seconds since 1970
    counts: reading.Counts
    index_kind: str  # what answers now: "flat", "hnsw", "ivf" or "remote"
    index_tombstones: int  # rows in memory that are no longer searchable
    bytes: int  # on disk, all files
    checkpoint_age_s: float | None  # None: there is none, as for a flat index
    doubts: tuple[str, ...]  # checkpoints that were not believed at the last start, and failures in the background


def describe(collection: Collection, *, clock: Callable[[], float] = time.time) -> Description:
    """Sizes, states and settings as they are now."""
    local, manifest = collection.local, collection.manifest
    return Description(
        name=collection.name,
        id=collection.id,
        aliases=tuple(sorted(collection.aliases())),
        settings=collection.settings,
        dimensions=collection.dimensions,
        fingerprint=collection.fingerprint,
        created_at=collection.created_at,
        counts=collection.store.read(reading.counts),
        index_kind=_kind(collection),
        index_tombstones=0 if local is None else local.tombstones,
        bytes=bytes_of(collection),
        checkpoint_age_s=None if manifest is None else max(0.0, clock() - manifest.written_at),
        # Where the folder lies is nobody's business who asks over HTTP; the system's errors name their files in full.
        doubts=tuple(doubt.replace(f"{collection.folder}{os.sep}", "") for doubt in collection.doubts),
    )


def bytes_of(collection: Collection) -> int:
    """Size on disk of all its files."""
    return bytes_in(collection.folder, f"{DATABASE}*") + collection.checkpoints.bytes


def _kind(collection: Collection) -> str:
    if collection.local is None:
        return "remote"
    return "flat" if collection.local.base is None else kind_of(collection.settings)
