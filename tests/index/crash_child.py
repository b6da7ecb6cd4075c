"""What the crash test kills: a process that writes, deletes, embeds, merges, takes snapshots, restores them, migrates
the copies, and keeps a ledger.

The ledger is fsynced: an intent before each change, an acknowledgement after. Changes follow from a seed, so the parent
can tell what was done without being told.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from grace.checkpoint import CheckpointConfig
from grace.representation import Segment
from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.errors import IndexNotFound
from grace_server.index.faiss_index import Work
from grace_server.index.faults import FaultPoint
from grace_server.index.migrate import migrate
from grace_server.index.model import Represented
from grace_server.index.settings import CollectionSettings
from grace_server.index.snapshot import restore_snapshot, take_snapshot
from grace_server.index.vectors import Floats
from grace_server.index.writing import Embedded

H = 8
SETTINGS = CollectionSettings(kind="hnsw", flat_limit=40, links=8, build_width=40)
FINGERPRINT, NEXT_FINGERPRINT = "f" * 32, "e" * 32
SEGMENTS = (Segment("input", 0, 1, 1),)
IDS = 150


def changes(seed: int) -> Iterator[dict[str, Any]]:
    """An endless list of changes, the same for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        ids = [f"d{i}" for i in rng.choice(IDS, size=rng.integers(1, 20), replace=False)]
        match int(rng.integers(0, 5)):
            case 0:
                yield {"delete": ids[:5]}
            case 1:
                yield {"upsert": [{"id": i, "text": f"{i} says {rng.integers(1000)}"} for i in ids[:5]]}
            case _:
                yield {
                    "upsert": [
                        {"id": i, "text": f"{i} river", "metadata": {"n": int(n)}, "vector": v.tolist()}
                        for i, n, v in zip(
                            ids, rng.integers(0, 9, len(ids)), rng.standard_normal((len(ids), H)), strict=True
                        )
                    ]
                }


def vector_of(text: str) -> Floats:
    """What the pretended model makes of a text."""
    vector = np.random.default_rng(sum(text.encode())).standard_normal(H)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def embed_some(collection: Any) -> None:
    """Do a part of the pending embedding."""
    outcomes = [
        Embedded(p.label, vector_of(p.text), None, False, False, SEGMENTS, np.ones((1, H), np.float32))
        for p in collection.pending(limit=3)
    ]
    if outcomes:
        collection.embedded(outcomes, fingerprint=FINGERPRINT)


class NextModel:
    """The model that collections are moved to, as far as `migrate` looks at one."""

    fingerprint = NEXT_FINGERPRINT
    checkpoint = SimpleNamespace(config=CheckpointConfig(), hidden_size=H)

    async def embed(self, collection: Any, text: str, **how: Any) -> Represented:
        """A vector that tells which text it is of."""
        made: Any = SimpleNamespace(
            rationale=None, truncated=False, segments=SEGMENTS, sums=np.ones((1, H), np.float32), pooled_tokens=1
        )
        job: Any = SimpleNamespace(thinking_open=False)
        return Represented(job, made, vector_of(text))


def move(catalog: Catalog, source: str) -> Any:
    """Move a collection that nobody writes to; go on where an earlier call was."""
    model: Any = NextModel()
    target = source.replace("copy-", "moved-")
    return asyncio.run(migrate(catalog, model, source=source, target=target, alias="live"))


def work(folder: Path, ledger: Path, seed: int, die_at: str | None, after: int) -> None:
    """Work until killed; or kill itself at the `after`-th time it reaches a fault point."""
    seen = 0
    doing = Doing(ledger.with_name("doing"))

    def faults(point: FaultPoint) -> None:
        nonlocal seen
        doing.reach(point)
        if point.name == die_at:
            seen += 1
            if seen >= after:
                os.kill(os.getpid(), signal.SIGKILL)

    edges = Edges(faults=faults)
    catalog = Catalog(folder, edges)
    try:
        collection = catalog.get("a")
    except IndexNotFound:
        collection = catalog.create("a", SETTINGS, dimensions=H, fingerprint=FINGERPRINT)
    threading.Thread(target=_look_after, args=(catalog, folder, doing), daemon=True).start()
    with ledger.open("a", encoding="utf-8") as file:

        def note(kind: str, number: int) -> None:
            file.write(json.dumps([kind, seed, number]) + "\n")
            file.flush()
            os.fsync(file.fileno())

        for number, change in enumerate(changes(seed)):
            note("intent", number)
            if "delete" in change:
                collection.delete(change["delete"])
            else:
                collection.upsert(change["upsert"])
            note("done", number)
            embed_some(collection)


class Doing:
    """A file that says what the background was at: written without a fsync, for what a SIGKILL leaves is read by the
    same kernel.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)

    def note(self, what: str) -> None:
        """From now on it is at this."""
        os.pwrite(self._file, what.ljust(16).encode(), 0)

    def reach(self, point: FaultPoint) -> None:
        """A checkpoint is written within a merge or a rebuild: its own fault points tell."""
        if point.name.startswith(("CHECKPOINT", "MANIFEST")):
            self.note("checkpoint")


def _look_after(catalog: Catalog, folder: Path, doing: Doing) -> None:
    """Merge, rebuild, checkpoint, snapshot, restore and migrate, all the time."""
    collection, turn = catalog.get("a"), 0
    while True:
        turn += 1
        doing.note("upkeep")
        collection.maintain()
        work: Work = "rebuild" if turn % 2 or collection.local.base is None else "merge"
        doing.note(work)
        collection.maintain(work)
        if turn % 3 == 0:
            path = folder / f"{os.getpid()}-{turn}.snapshot"
            doing.note("snapshot")
            take_snapshot(collection, path, catalog.edges)
            doing.note("restore")
            restored = restore_snapshot(catalog, path, f"copy-{os.getpid()}-{turn}")
            doing.note("alias")
            catalog.set_alias("latest", restored.name)
            doing.note("migrate")
            move(catalog, restored.name)
            doing.note("delete")
            kept = (restored.name, restored.name.replace("copy-", "moved-"))
            for old in [c for c in catalog if c.name.startswith(("copy-", "moved-")) and c.name not in kept]:
                catalog.delete(old.name)
            path.unlink()
