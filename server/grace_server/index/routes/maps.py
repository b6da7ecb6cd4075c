"""`/indexes/{name}/map`: the documents of an index on a plane, for looking at."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from grace.representation import Mode
from grace_server.errors import problems
from grace_server.index.mapping import MAX_NAMES, MAX_POINTS, Kind, values_of
from grace_server.index.routes.shapes import Strict, indexes_of
from grace_server.index.searching import Options, ask

router = APIRouter(tags=["indexes"])

Seq = Annotated[int, Query(ge=0, le=2**63 - 1, description="of the map it is for")]


class MapFieldOut(BaseModel):
    """A field of the metadata that points can be coloured by."""

    name: str
    kind: Kind = Field(description="`number` if every value is one")
    documents: int = Field(description="that have it")
    distinct: int = Field(description="values")


class MapOut(BaseModel):
    """Documents on the plane of largest variance of their vectors; lists are in one order."""

    object: Literal["map"] = "map"
    index: str
    seq: int = Field(description="number of the change it was drawn after; names the map in the other two requests")
    documents: int = Field(description=f"with a vector; over {MAX_POINTS}, points are an even choice of them")
    explained: tuple[float, float] = Field(description="share of the variance along x and along y")
    ids: list[str]
    x: list[float]
    y: list[float]
    fields: list[MapFieldOut]


class ValuesOut(BaseModel):
    """A field's value at each point of a map, in its order."""

    object: Literal["map_values"] = "map_values"
    field: str
    kind: Kind
    names: list[str] = Field(description=f"up to {MAX_NAMES} categories, most frequent first; empty for numbers")
    values: list[float | int | None] = Field(
        description="numbers; or places in `names`, one past its end for rarer ones; null: no value"
    )


class PlaceIn(Strict):
    """A query to place on a map."""

    query: str
    seq: int = Field(ge=0, le=2**63 - 1, description="of the map it is for")
    mode: Mode | None = Field(None, description="of the query; null: as the index says")


class PlaceOut(BaseModel):
    """Where a query lies on a map."""

    object: Literal["map_place"] = "map_place"
    x: float
    y: float


@router.get("/indexes/{name}/map", responses=problems(404))
async def get_map(request: Request, name: str) -> MapOut:
    """The documents on a plane. Computed once per change of the index."""
    indexes = indexes_of(request)
    collection = indexes.catalog.get(name)
    chart = await asyncio.to_thread(indexes.maps.current, collection)
    return MapOut(
        index=collection.name,
        seq=chart.seq,
        documents=chart.documents,
        explained=chart.plane.explained,
        ids=list(chart.ids),
        x=chart.points[:, 0].round(5).tolist(),
        y=chart.points[:, 1].round(5).tolist(),
        fields=[
            MapFieldOut(name=f.name, kind=f.kind, documents=f.documents, distinct=f.distinct) for f in chart.fields
        ],
    )


@router.get("/indexes/{name}/map/values", responses=problems(404, 409))
async def get_map_values(
    request: Request, name: str, seq: Seq, field: Annotated[str, Query(description="of the metadata")]
) -> ValuesOut:
    """What to colour the points of a map by."""
    indexes = indexes_of(request)
    collection = indexes.catalog.get(name)
    found = await asyncio.to_thread(values_of, collection, indexes.maps.of(collection, seq), field)
    return ValuesOut(field=found.field, kind=found.kind, names=list(found.names), values=list(found.values))


@router.post("/indexes/{name}/map/query", responses=problems(404, 409, 429))
async def place_query(request: Request, name: str, body: PlaceIn) -> PlaceOut:
    """Where a query lies on a map: its vector on the plane of the documents'."""
    indexes = indexes_of(request)
    collection = indexes.catalog.get(name)
    chart = indexes.maps.of(collection, body.seq)
    [question] = await ask(
        indexes.model, collection, texts=[body.query], vectors=[None], options=Options(mode=body.mode)
    )
    assert question.vector is not None
    [[x, y]] = chart.plane.place(question.vector[None]).round(5).tolist()
    return PlaceOut(x=x, y=y)
