"""A collection that is there and not served: damaged, or of the same name as another. It is left as it is, and its name
is not given away: what becomes of it is for whoever runs the service to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grace_server.errors import ApiError
from grace_server.index import reading
from grace_server.index.collection import DATABASE
from grace_server.index.errors import StoreDamaged, StoreRefused, StoreUnavailable
from grace_server.index.store import looking_at


@dataclass(frozen=True, slots=True)
class Unopened:
    """What is known of it."""

    folder: Path
    name: str | None  # None: not even that can be read
    aliases: Mapping[str, int]  # with the stamp of when each was given
    reason: str

    @classmethod
    def by(cls, error: BaseException, folder: Path, *, name: str | None = None) -> Unopened:
        """One that an error kept from being opened. `name` where it is known."""
        found, aliases = _names_in(folder)
        reason = error.message if isinstance(error, ApiError) else f"it could not be opened ({type(error).__name__})"
        return cls(folder, name or found, aliases, reason)

    def refusal(self, name: str) -> StoreDamaged:
        """What is told to who asks for a name that is its own, or may be."""
        which = f"index {name[:80]!r}" if self.name is not None else f"an index, perhaps {name[:80]!r},"
        where = f"{self.folder.parent.name}/{self.folder.name}"  # in the data folder
        return StoreDamaged(f"{which} is left alone in {where}: {self.reason}", param="index")


def is_damage(error: Exception) -> bool:
    """Whether it is what a collection holds that keeps it from being opened. Else a later start may find it well."""
    elsewhere = (StoreUnavailable, StoreRefused, OSError, MemoryError)
    return isinstance(error, StoreDamaged) or not isinstance(error, elsewhere)


def _names_in(folder: Path) -> tuple[str | None, dict[str, int]]:
    """Name and aliases, as far as they can be read. Nothing is written."""
    name = None
    try:
        with looking_at((folder / DATABASE).absolute()) as connection:
            name = reading.settings(connection).get("name")
            return name, reading.aliases(connection)
    except Exception:  # noqa: BLE001 - of damage anything may come
        return name, {}
