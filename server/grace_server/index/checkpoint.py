"""A built base on disk, so that a start does not build it again. Believed only if every promise of its manifest holds.

Order: the FAISS file, durable under its own name; then the manifest, durable; then older ones are removed, all but one.
A crash at any point leaves the previous pair whole. A manifest without its file, or the other way round, means nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grace_server.index import approximate
from grace_server.index.approximate import FAISS_VERSION, Base
from grace_server.index.durable import TEMPORARY, Steps, bytes_in, sha256_of, write_durably
from grace_server.index.faults import FaultPoint, Faults
from grace_server.index.manifest import FORMAT, Doubt, FromBeyond, Manifest
from grace_server.index.settings import CollectionSettings

KEPT = 2  # the newest and the one before it
_NAME = re.compile(r"base-([0-9]{8})\.json")
_FILE_STEPS = Steps(
    FaultPoint.CHECKPOINT_WRITE,
    FaultPoint.CHECKPOINT_SYNC,
    FaultPoint.CHECKPOINT_RENAME,
    FaultPoint.CHECKPOINT_SYNC_FOLDER,
)
_MANIFEST_STEPS = Steps(
    FaultPoint.MANIFEST_WRITE,
    FaultPoint.MANIFEST_SYNC,
    FaultPoint.MANIFEST_RENAME,
    FaultPoint.MANIFEST_SYNC_FOLDER,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint has to belong to."""

    collection: str
    dimensions: int
    fingerprint: str | None
    settings: CollectionSettings

    @property
    def shape(self) -> str:
        """The settings that decide what the index looks like."""
        s = self.settings
        return json.dumps([approximate.kind_of(s), s.metric, s.quantization, s.links, s.build_width])


class Checkpoints:
    """The checkpoints of one collection, in a folder of their own."""

    def __init__(self, folder: Path, *, clock: Callable[[], float], faults: Faults) -> None:
        self._folder = folder
        self._clock = clock
        self._faults = faults

    def save(self, base: Base, identity: Identity, *, covers_seq: int) -> Manifest:
        """Write a checkpoint and its manifest, then remove all but the newest two.

        Raises:
            OSError: the disk is full or fails; the earlier checkpoints are as they were.
        """
        self._folder.mkdir(exist_ok=True)
        number = max((n for n, _ in self._found()), default=0) + 1
        file = self._folder / f"base-{number:08d}.faiss"
        written = write_durably(
            file, lambda write: approximate.save(base, write), steps=_FILE_STEPS, faults=self._faults
        )
        manifest = Manifest(
            format=FORMAT,
            file=file.name,
            file_bytes=written.bytes,
            sha256=written.sha256,
            covers_seq=covers_seq,
            rows=len(base),
            dimensions=identity.dimensions,
            collection=identity.collection,
            settings=identity.shape,
            fingerprint=identity.fingerprint,
            faiss_version=FAISS_VERSION,
            written_at=self._clock(),
        )
        write_durably(
            file.with_suffix(".json"),
            lambda write: write(manifest.to_json()),
            steps=_MANIFEST_STEPS,
            faults=self._faults,
        )
        self._faults(FaultPoint.CHECKPOINT_SWEEP)
        self._sweep()
        return manifest

    def load(self, identity: Identity, *, last_seq: int) -> tuple[Base | None, Manifest | None, list[str]]:
        """The newest checkpoint that keeps its promises, if there is one, and why newer ones were not believed.

        One from beyond the database is removed: once the database has come as far again, with other documents under
        the same labels, nothing would tell the two apart.
        """
        doubts: list[str] = []
        for _, path in self._found():
            try:
                manifest = self.verify(path, identity, last_seq=last_seq)
                base = approximate.load(self._folder / manifest.file, identity.settings)
                if len(base) != manifest.rows:
                    raise Doubt("it holds another number of rows")
            except (Doubt, ValueError, OSError, MemoryError) as error:
                doubts.append(f"{path.name}: {error}")
                if isinstance(error, FromBeyond):
                    path.unlink()  # the manifest first: a file without one means nothing
                    path.with_suffix(".faiss").unlink(missing_ok=True)
                continue
            return base, manifest, doubts
        return None, None, doubts

    def verify(self, path: Path, identity: Identity, *, last_seq: int) -> Manifest:
        """Check a manifest and the bytes it speaks for.

        Raises:
            Doubt: a promise is not kept; `FromBeyond`, that it holds no changes which the database does not have.
            OSError: a file cannot be read.
        """
        manifest = Manifest.from_json(path.read_bytes())
        if manifest.file != path.with_suffix(".faiss").name:  # never a name from the file: it could point anywhere
            raise Doubt("the manifest speaks for another file")
        if manifest.collection != identity.collection:
            raise Doubt("it belongs to another collection")
        if (manifest.dimensions, manifest.settings) != (identity.dimensions, identity.shape):
            raise Doubt("it was built with other settings")
        if manifest.fingerprint != identity.fingerprint:
            raise Doubt("it was built by another model")
        if manifest.faiss_version != FAISS_VERSION:
            raise Doubt(f"it was written by FAISS {manifest.faiss_version}, this is {FAISS_VERSION}")
        if manifest.covers_seq > last_seq:
            raise FromBeyond("it is newer than the database, which comes from a copy or lost its last commits")
        file = self._folder / manifest.file
        if file.stat().st_size != manifest.file_bytes:
            raise Doubt(f"its file has {file.stat().st_size} bytes, not {manifest.file_bytes}")
        if sha256_of(file) != manifest.sha256:
            raise Doubt("its file does not have the SHA-256 it was written with")
        return manifest

    def complaints(self, identity: Identity, *, last_seq: int) -> list[str]:
        """What is wrong with each checkpoint that is there."""
        found = []
        for _, path in self._found():
            try:
                self.verify(path, identity, last_seq=last_seq)
            except (Doubt, OSError) as error:
                found.append(f"{path.name}: {error}")
        return found

    def forget(self) -> None:
        """Remove all checkpoints: the base is built anew."""
        self._sweep(keep=0)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return bytes_in(self._folder, "base-*")

    def _found(self) -> Iterator[tuple[int, Path]]:
        """Numbers and manifests, newest first."""
        names = self._folder.glob("base-*.json") if self._folder.exists() else ()
        numbered = [(int(match[1]), path) for path in names if (match := _NAME.fullmatch(path.name))]
        return iter(sorted(numbered, reverse=True))

    def _sweep(self, keep: int = KEPT) -> None:
        kept = {path.stem for _, path in list(self._found())[:keep]}
        doomed = self._folder.glob("base-*") if self._folder.exists() else ()
        # Manifests first: a file without one means nothing, one without its file is a fault.
        for path in sorted(doomed, key=lambda path: path.suffix != ".json"):
            if path.name.endswith(TEMPORARY) or path.stem not in kept:
                path.unlink(missing_ok=True)
