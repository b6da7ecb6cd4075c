"""What an upload is made of, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grace_client import wire
from grace_client.errors import GraceError
from grace_client.results import Failure, Written
from grace_client.wire import Document

MAX_BATCH_BYTES = 4 * 2**20  # a server takes 16 MiB unless told otherwise
_NAMED = 3  # failures in an error


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upload is, in documents."""

    total: int | None  # if the source knows its length
    written: int = 0
    unchanged: int = 0  # were there with the same contents
    failed: int = 0  # could not be embedded
    cancelled: int = 0  # not embedded, since someone stopped the job

    def after(self, batch: Written) -> Progress:
        """With one more batch."""
        return Progress(
            self.total,
            self.written + batch.documents,
            self.unchanged + batch.unchanged,
            self.failed + batch.job.failed,
            self.cancelled + (batch.job.left if batch.job.state == "cancelled" else 0),
        )


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of an upload."""

    written: int
    unchanged: int
    failed: int
    failures: tuple[Failure, ...]  # the first 1,000 of each batch
    jobs: tuple[str, ...]  # their ids
    cancelled: int = 0  # not embedded, since someone stopped the job; uploading again embeds them


def check(uploaded: Uploaded) -> None:
    """For those whose callers get no report: frameworks' stores have nowhere to put one.

    Raises:
        GraceError: documents could not be embedded, and it names the first; or someone stopped their embedding.
    """
    if uploaded.cancelled:
        raise GraceError(
            f"the embedding of {uploaded.cancelled} of {uploaded.written} documents was cancelled: they will not be "
            "found until they are written again"
        )
    if not uploaded.failed:
        return
    named = "; ".join(f"{failure.id!r}: {failure.reason}" for failure in uploaded.failures[:_NAMED])
    more = uploaded.failed - min(len(uploaded.failures), _NAMED)
    raise GraceError(
        f"{uploaded.failed} of {uploaded.written} documents could not be embedded and will not be found: "
        f"{named}{f'; and {more} more' if more else ''}"
    )


class Batch:
    """Documents as one body, up to a number of documents and of bytes. A single one may be larger."""

    def __init__(self, size: int) -> None:
        wire.positive(batch_size=size)
        self._size = size
        self._parts: list[bytes] = []
        self._bytes = 0

    def add(self, document: Document | Mapping[str, Any]) -> bytes | None:
        """Take a document; a body once one is full: with it, or if there is no room, of those before it."""
        part = wire.encode(wire.document(document))
        full = self.body() if self._bytes + len(part) > MAX_BATCH_BYTES else None
        self._parts.append(part)
        self._bytes += len(part) + 1
        # Not both: a batch of one never waits for a second.
        return self.body() if len(self._parts) == self._size else full

    def body(self) -> bytes | None:
        """What was taken, and begin anew. None: nothing was."""
        parts, self._parts, self._bytes = self._parts, [], 0
        return b'{"documents":[' + b",".join(parts) + b"]}" if parts else None
