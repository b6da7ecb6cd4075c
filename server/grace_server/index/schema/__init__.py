"""The numbered migrations of a collection's database. A file that has been released is never edited: add the next."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Migration:
    """One step from one schema to the next."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Of the SQL: a database remembers it, so that an edited migration is found out."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations() -> list[Migration]:
    """All of them, in order, numbered from 1 without a gap."""
    found = sorted((f for f in files(__name__).iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    steps = [Migration(int(f.name[:4]), f.name[5:-4], f.read_text(encoding="utf-8")) for f in found]
    if [step.number for step in steps] != list(range(1, len(steps) + 1)):
        raise RuntimeError("the migrations are not numbered 1, 2, 3, ...")
    return steps
