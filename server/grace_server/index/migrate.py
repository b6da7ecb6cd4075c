"""Moving a collection to another model: embed everything anew beside the old one, catch up, then switch the alias.

The old collection answers until the switch, and stays. Killed at any point, the same call resumes: what is
already there and unchanged costs nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from grace_server.index import reading
from grace_server.index.backlog import Advance, embed_pending
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.document import Document
from grace_server.index.errors import Conflict
from grace_server.index.faults import FaultPoint
from grace_server.index.model import Model
from grace_server.index.settings import with_defaults

BATCH = 500


async def migrate(
    catalog: Catalog, model: Model, *, source: str, target: str, alias: str | None, advance: Advance = lambda _: None
) -> Collection:
    """Embed the documents of `source` under `model` into `target`; then let `alias`, if given, name it.

    Given rationales are kept; ready vectors are those of the old model, so their documents are embedded from the text.

    Raises:
        Conflict: `target` is there and not a collection of this model.
    """
    old = catalog.get(source)
    new = _target(catalog, model, old, target)
    seq = -1
    while changed := await asyncio.to_thread(old.store.read, lambda c, s=seq: reading.changed_after(c, s, limit=BATCH)):
        await asyncio.to_thread(new.upsert, [_again(document) for document in changed])
        seq = changed[-1].seq
        catalog.edges.faults(FaultPoint.MIGRATE_BATCH)
        await embed_pending(new, model, advance=advance)
    gone = new.store.read(reading.ids) - old.store.read(reading.ids)
    await asyncio.to_thread(new.delete, gone)
    await asyncio.to_thread(new.maintain)
    if alias is not None:
        catalog.edges.faults(FaultPoint.MIGRATE_SWITCH)
        await asyncio.to_thread(catalog.set_alias, alias, target)
    return new


def _target(catalog: Catalog, model: Model, old: Collection, name: str) -> Collection:
    existing = next((collection for collection in catalog if collection.name == name), None)
    if existing is None:
        settings, dimensions = with_defaults(
            replace(old.settings, pooling=model.checkpoint.config.pooling), hidden_size=model.checkpoint.hidden_size
        )
        return catalog.create(name, settings, dimensions=dimensions, fingerprint=model.fingerprint)
    if existing is old or existing.fingerprint != model.fingerprint:
        raise Conflict(f"index {name!r} is not of the model that is to be moved to", param="to")
    return existing


def _again(document: Document) -> dict[str, Any]:
    given = document.given == "rationale" and document.rationale is not None
    return {
        "id": document.id,
        "text": document.text,
        "metadata": document.metadata,
        "rationale": document.rationale.text if given and document.rationale else None,
    }
