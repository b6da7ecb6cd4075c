"""What stands beside a checkpoint and says whether it may be believed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

FORMAT = 2  # of checkpoint and manifest; another number is thrown away and rebuilt, never read
_END_OF_TIME = 2**63


class Doubt(Exception):
    """A checkpoint that is not to be used; the message says why. The index is rebuilt from SQLite."""


class FromBeyond(Doubt):
    """A checkpoint that may hold changes which its database does not have, or no longer."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The promises a checkpoint has to keep."""

    format: int
    file: str
    file_bytes: int
    sha256: str
    covers_seq: int  # no change after this one is in it
    rows: int
    dimensions: int
    collection: str  # the collection's own id: names may change hands
    settings: str  # JSON of those that shape the index
    fingerprint: str | None
    faiss_version: str
    written_at: float  # seconds since 1970

    def to_json(self) -> bytes:
        """The file's contents."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            Doubt: it is damaged or of another format.
        """
        try:
            read: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Doubt(f"the manifest is not JSON: {error}") from error
        if not isinstance(read, dict) or read.get("format") != FORMAT:
            raise Doubt("the manifest has another format")
        if set(read) != {f.name for f in fields(cls)}:
            raise Doubt("the manifest has other keys")
        manifest = cls(**read)
        whole = (manifest.file_bytes, manifest.covers_seq, manifest.rows, manifest.dimensions)
        texts = (manifest.file, manifest.sha256, manifest.collection, manifest.settings, manifest.faiss_version)
        if not all(type(number) is int for number in whole) or not all(isinstance(text, str) for text in texts):
            raise Doubt("the manifest has values of the wrong type")
        if not isinstance(manifest.fingerprint, str | None) or not isinstance(manifest.written_at, int | float):
            raise Doubt("the manifest has values of the wrong type")
        if not 0 <= manifest.written_at < _END_OF_TIME:  # nor NaN: its age is told
            raise Doubt("the manifest was written at no time")
        return manifest
