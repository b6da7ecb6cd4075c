"""Where the index touches the world: time, chance and failure. Injected, so that tests decide them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grace_server.index.faults import Faults, no_faults
from grace_server.index.vector_index import MakeVectorIndex

if TYPE_CHECKING:
    from grace_server.settings import Settings


def random_id() -> str:
    """32 hex digits nobody has used."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Edges:
    """The defaults are the real ones."""

    clock: Callable[[], float] = time.time  # seconds since 1970
    new_id: Callable[[], str] = random_id
    faults: Faults = no_faults
    vector_index: MakeVectorIndex | None = None  # where vectors are searched; None: FAISS, on this machine
    max_pages: int | None = None  # quota of a database, in pages of 8 KiB

    @classmethod
    def of(cls, settings: Settings) -> Edges:
        """The real ones, with the vectors where the settings say."""
        if settings.qdrant_url is None:
            return cls()
        from grace_server.index.qdrant_index import connect, in_qdrant  # an extra: only who uses it needs it

        key = settings.qdrant_api_key
        return cls(vector_index=in_qdrant(connect(settings.qdrant_url, key.get_secret_value() if key else None)))
