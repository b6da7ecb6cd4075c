"""`/indexes` and `/aliases`: create, list, describe, delete."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from grace.representation import Mode
from grace_server.errors import problems
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.description import describe
from grace_server.index.errors import IndexNotFound, StoreUnavailable
from grace_server.index.routes.shapes import Strict, indexes_of
from grace_server.index.settings import CollectionSettings, Durability, Kind, Metric, Quantization, Sums, chosen_for

router = APIRouter(tags=["indexes"])
_DEFAULTS = CollectionSettings()


class SettingsIn(Strict):
    """How documents are embedded, compared and kept. Fixed once the index is there."""

    kind: Kind = Field(_DEFAULTS.kind, description="`auto`: exact up to `flat_limit` rows, IVF above")
    metric: Metric = Field(_DEFAULTS.metric, description="`dot` keeps the lengths of the vectors")
    quantization: Quantization = Field(_DEFAULTS.quantization, description="less memory; hits are scored exactly again")
    document_mode: Mode | None = Field(None, description="null: as the checkpoint says")
    query_mode: Mode | None = Field(None, description="null: as the checkpoint says")
    pooling: Literal["mean", "rationale", "input", "last"] | None = Field(None, description="null: the checkpoint's")
    dimensions: int | None = Field(None, description="keep this many leading dimensions; null keeps all")
    sums: Sums = Field(
        _DEFAULTS.sums, description="precision of what explanations are computed from; `none`: no explaining"
    )
    durability: Durability = Field(_DEFAULTS.durability, description="SQLite's `synchronous`")
    flat_limit: int = Field(_DEFAULTS.flat_limit, description="rows up to which every vector is compared")
    links: int = Field(_DEFAULTS.links, description="HNSW: neighbours per node")
    build_width: int = Field(_DEFAULTS.build_width, description="HNSW: efConstruction")
    search_width: int | None = Field(None, description="HNSW: efSearch; null: measured when the index is built")
    probes: float | None = Field(None, description="IVF: share of the cells searched; null: measured")
    recall: float = Field(_DEFAULTS.recall, description="share of the true neighbours to measure those two at")
    rescore: int = Field(_DEFAULTS.rescore, description="candidates scored exactly per hit")


class IndexIn(Strict):
    """A new index."""

    settings: SettingsIn | None = None


class CountsOut(BaseModel):
    """Documents by state."""

    ready: int
    pending: int
    failed: int
    cancelled: int


class IndexOut(BaseModel):
    """An index, described."""

    object: Literal["index"] = "index"
    name: str
    aliases: list[str]
    settings: dict[str, Any]
    dimensions: int
    fingerprint: str | None = Field(description="of the model that built it")
    rows: int = Field(description="documents with a vector")
    documents: CountsOut
    tombstones: int = Field(description="deleted rows that a compaction will drop")
    index_kind: str = Field(description="what answers dense searches now")
    bytes: int = Field(description="on disk")
    seq: int = Field(description="number of the last change")
    created_at: float = Field(description="seconds since 1970")
    checkpoint_age_s: float | None = Field(description="null: there is none, as for a flat index")
    doubts: list[str] = Field(description="checkpoints not believed at the last start, and failures in the background")


class IndexList(BaseModel):
    """All indexes."""

    object: Literal["list"] = "list"
    data: list[IndexOut]


class AliasIn(Strict):
    """What an alias shall name."""

    index: str


class AliasOut(BaseModel):
    """An alias."""

    object: Literal["alias"] = "alias"
    alias: str
    index: str


@router.put(
    "/indexes/{name}",
    responses={200: {"model": IndexOut, "description": "It was there already"}, **problems(409)},
    status_code=201,
)
async def create_index(request: Request, response: Response, name: str, body: IndexIn | None = None) -> IndexOut:
    """Create an index: 201. Doing it again with the same settings changes nothing and answers 200."""
    indexes = indexes_of(request)
    chosen = body.settings.model_dump() if body and body.settings else {}
    collection, new = await indexes.create(name, chosen_for(indexes.model.checkpoint.config, chosen))
    response.status_code = 201 if new else 200
    return await _described(collection)


@router.get("/indexes")
async def list_indexes(request: Request) -> IndexList:
    """All indexes, by name."""
    catalog = indexes_of(request).catalog
    described = [await _described_if_there(catalog, collection) for collection in catalog]
    return IndexList(data=[one for one in described if one is not None])


@router.get("/indexes/{name}", responses=problems(404))
async def describe_index(request: Request, name: str) -> IndexOut:
    """Sizes, states and settings of an index."""
    catalog = indexes_of(request).catalog
    described = await _described_if_there(catalog, catalog.get(name))
    if described is None:
        raise IndexNotFound(f"there is no index {name[:80]!r}", param="index")
    return described


@router.delete("/indexes/{name}", responses=problems(404, 409))
async def delete_index(request: Request, name: str) -> dict[str, Any]:
    """Delete an index with all its documents. By its own name only, not by an alias."""
    await indexes_of(request).delete(name)
    return {"object": "index", "name": name, "deleted": True}


@router.put("/aliases/{alias}", responses=problems(404, 409))
async def set_alias(request: Request, alias: str, body: AliasIn) -> AliasOut:
    """Let an alias name an index from now on, whatever it named before. Searches under way are not disturbed."""
    collection = await asyncio.to_thread(indexes_of(request).catalog.set_alias, alias, body.index)
    return AliasOut(alias=alias, index=collection.name)


@router.delete("/aliases/{alias}")
async def remove_alias(request: Request, alias: str) -> dict[str, Any]:
    """Give an alias up. Doing it twice is no error."""
    await asyncio.to_thread(indexes_of(request).catalog.remove_alias, alias)
    return {"object": "alias", "alias": alias, "deleted": True}


async def _described_if_there(catalog: Catalog, collection: Collection) -> IndexOut | None:
    try:
        return await _described(collection)
    except StoreUnavailable:
        if catalog.has(collection):
            raise
        return None  # deleted a moment ago


async def _described(collection: Collection) -> IndexOut:
    described = await asyncio.to_thread(describe, collection)
    counts = described.counts
    return IndexOut(
        name=described.name,
        aliases=list(described.aliases),
        settings=asdict(described.settings),
        dimensions=described.dimensions,
        fingerprint=described.fingerprint,
        rows=counts.ready,
        documents=CountsOut(
            ready=counts.ready, pending=counts.pending, failed=counts.failed, cancelled=counts.cancelled
        ),
        tombstones=max(counts.tombstones, described.index_tombstones),
        index_kind=described.index_kind,
        bytes=described.bytes,
        seq=counts.seq,
        created_at=described.created_at,
        checkpoint_age_s=described.checkpoint_age_s,
        doubts=list(described.doubts),
    )
