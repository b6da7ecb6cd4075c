"""Moving a collection to another model: embed everything anew beside the old one, catch up, then switch the alias.

The old collection answers until the switch, and stays. Killed at any point, the same call resumes: what is
already there and unchanged costs nothing, and what failed is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from grace.errors import GraceError
from grace_server.index import reading
from grace_server.index.backlog import Advance, embed_pending
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.document import Document
from grace_server.index.errors import Conflict
from grace_server.index.faults import FaultPoint
from grace_server.index.model import Model
from grace_server.index.settings import chosen_for, with_defaults
from grace_server.index.store import Connection

BATCH = 500
# Kept among a target's settings: the id of what is moved there, and its last change by the time that was done.
SOURCE, FINISHED = "moved_from", "moved_at_seq"
OF_THE_CHECKPOINT = ("pooling", "document_mode", "query_mode")  # settings that a collection does not bring along


class Incomplete(GraceError):
    """The new collection lacks what the old one has: nothing was switched."""


async def migrate(
    catalog: Catalog,
    model: Model,
    *,
    source: str,
    target: str,
    alias: str | None,
    settings: Mapping[str, Any] | None = None,  # chosen for `target`, before those of the checkpoint and of `source`
    advance: Advance = lambda _: None,
) -> Collection:
    """Embed the documents of `source` under `model` into `target`; then let `alias`, if given, name it.

    Given rationales are kept; ready vectors are those of the old model, so their documents are embedded from the text.
    Pooling and modes are the new checkpoint's: it was trained under them, as the old one was under its own.

    Raises:
        InvalidValue: `alias` is not a name.
        Conflict: documents have no text to embed, or `target` is there and not a collection of this model and these
            settings, or holds what was written there by somebody else, or an index has the name `alias`. Nothing was
            embedded.
        Incomplete: documents that are ready in `source` failed. The others are in `target`; the same call tries again.
        EngineDead: the same.
    """
    old = catalog.get(source)
    if alias is not None:
        catalog.check_alias(alias, to_be=target)
    await asyncio.to_thread(_check_texts, old)
    new = _target(catalog, model, old, target, settings or {})
    await asyncio.to_thread(new.store.write, lambda c: _claim(c, old, live=bool(new.aliases())))
    seq = -1
    while changed := await asyncio.to_thread(old.store.read, lambda c, s=seq: reading.changed_after(c, s, limit=BATCH)):
        await asyncio.to_thread(new.upsert, [_again(document) for document in changed])
        seq = changed[-1].seq
        catalog.edges.faults(FaultPoint.MIGRATE_BATCH)
        await embed_pending(new, model, advance=advance)
    gone = new.store.read(reading.ids) - old.store.read(reading.ids)
    await asyncio.to_thread(new.delete, gone)
    await asyncio.to_thread(new.maintain)
    await asyncio.to_thread(_check_complete, old, new)
    await asyncio.to_thread(new.store.write, _finish)
    if alias is not None:
        catalog.edges.faults(FaultPoint.MIGRATE_SWITCH)
        await asyncio.to_thread(catalog.set_alias, alias, target)
    return new


def _check_texts(old: Collection) -> None:
    count, example = old.store.read(reading.without_text)
    if count:
        raise Conflict(
            f"{count} documents of index {old.name!r} are vectors without a text, which another model cannot embed, "
            f"{example!r} among them: delete them first, and import vectors of the new model for them afterwards",
            param="index",
        )


def _claim(connection: Connection, old: Collection, *, live: bool) -> None:
    """Make sure that a target holds what was moved there from `old` alone: what `old` lacks is deleted from it.

    Until it is finished, all writes to it are ours; after that its last change tells whether others wrote. One with an
    alias stays finished while it catches up: killed meanwhile, its writes are taken for theirs, and nothing is lost.

    Raises:
        Conflict: it holds more than that.
    """
    settings, seq = reading.settings(connection), str(reading.last_seq(connection))
    fresh = settings.get(SOURCE) != old.id
    if fresh and reading.ids(connection):
        raise Conflict(
            f"index {settings['name']!r} holds documents that were not moved there from {old.name!r}, and would lose "
            "them: take another name",
            param="to",
        )
    if not fresh and settings.get(FINISHED, seq) != seq:
        raise Conflict(
            f"index {settings['name']!r} has been written to since {old.name!r} was moved there, and would lose that: "
            "take another name",
            param="to",
        )
    if fresh or not live:
        connection.execute("DELETE FROM setting WHERE key = ?", (FINISHED,))
    connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (SOURCE, old.id))


def _finish(connection: Connection) -> None:
    seq = reading.last_seq(connection)
    connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (FINISHED, str(seq)))


def _check_complete(old: Collection, new: Collection) -> None:
    ready, there = (collection.store.read(lambda c: reading.ids(c, state="ready")) for collection in (old, new))
    if lost := ready - there:
        raise Incomplete(
            f"{len(lost)} of {len(ready)} documents that are ready in index {old.name!r} are not in {new.name!r}, "
            f"{min(lost)!r} among them: no alias was switched, and the same command tries them again"
        )


def _target(catalog: Catalog, model: Model, old: Collection, name: str, chosen: Mapping[str, Any]) -> Collection:
    existing = next((collection for collection in catalog if collection.name == name), None)
    if existing is None:
        kept = {key: value for key, value in asdict(old.settings).items() if key not in OF_THE_CHECKPOINT}
        settings, dimensions = with_defaults(
            chosen_for(model.checkpoint.config, kept | dict(chosen)), hidden_size=model.checkpoint.hidden_size
        )
        return catalog.create(name, settings, dimensions=dimensions, fingerprint=model.fingerprint)
    if existing is old or existing.fingerprint != model.fingerprint:
        raise Conflict(f"index {name!r} is not of the model that is to be moved to", param="to")
    if differing := [key for key, value in chosen.items() if getattr(existing.settings, key) != value]:
        raise Conflict(f"index {name!r} is there with another {' and '.join(differing)}", param="to")
    return existing


def _again(document: Document) -> dict[str, Any]:
    given = document.given == "rationale" and document.rationale is not None
    return {
        "id": document.id,
        "text": document.text,
        "metadata": document.metadata,
        "rationale": document.rationale.text if given and document.rationale else None,
    }
