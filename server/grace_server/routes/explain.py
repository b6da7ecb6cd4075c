"""`POST /explain`: the score of two texts as a table, sentence by sentence."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from grace.errors import InvalidInput
from grace.pooling import Pooling
from grace.representation import Mode, Role, Source
from grace_server import attribution_table
from grace_server.attribution_table import MAX_GRAM_SEGMENTS, Table, take_apart
from grace_server.embedding import Embedded, Options, embed
from grace_server.errors import ApiError, problems
from grace_server.house import House
from grace_server.routes.embed import EmbedUsage
from grace_server.routes.shapes import RationaleBody, as_json, embed_usage, rationale_body

router = APIRouter(tags=["embeddings"])


class TextIn(BaseModel):
    """One of the two texts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: str
    role: Role | None = Field(None, description="by default the first is a query, the second a document")
    rationale: str | None = Field(None, description="pooled instead of writing one")


def _as_text(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


Text = Annotated[TextIn, BeforeValidator(_as_text, json_schema_input_type=str | TextIn)]


class ExplainRequest(BaseModel):
    """Which texts to compare, and how. A field that is not listed here is refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [{"first": "Where does the river rise?", "second": "The river rises in the hills. It is long."}]
        },
    )

    first: Text = Field(description="a text, or an object; a query unless it says otherwise")
    second: Text = Field(description="the same; a document unless it says otherwise")
    mode: Mode = Field("reason", description="`direct` writes no rationale and pools the texts alone")
    pooling: Pooling | None = Field(None, description="which states are averaged; by default as the checkpoint says")
    max_rationale_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="budget of each rationale")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="0 is greedy; by default as the checkpoint says"
    )
    n: int = Field(1, ge=1, description="rationales per text, whose vectors are averaged; needs a temperature above 0")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="keep this many leading dimensions")
    top_pairs: int = Field(10, ge=0, le=1000, description="how many pairs to list by their contribution")


class PartBody(BaseModel):
    """A segment of a side: a sentence of the text or of the rationale, or the template between them."""

    source: Source
    text: str
    start: int = Field(description="in characters (code points) of the text or of the rationale")
    end: int
    tokens: int = Field(description="whose states were pooled")
    sample: int = Field(description="of which of n rationales it is; 0 for what they share")
    share: float = Field(description="of its own vector; those of a side add up to 1")
    contribution: float = Field(description="to the score; those of a side add up to it")
    without: float | None = Field(description="the score with its sum left out; null if nothing would be left")


class PortionBody(BaseModel):
    """What a source adds to the score."""

    source: Source
    contribution: float
    share: float | None = Field(description="of the score; null if that is 0")


class SideBody(BaseModel):
    """One of the two texts, and what its vector is made of."""

    role: Role
    rationale: RationaleBody | None
    input_tokens: int
    truncated: bool
    cached: bool
    consistency: float | None
    segments: list[PartBody]
    sources: list[PortionBody]
    gram: list[list[float]] | None = Field(
        description=f"inner products of its segments, adding up to 1; null over {MAX_GRAM_SEGMENTS} segments"
    )


class PairBody(BaseModel):
    """What a segment of the first and one of the second add to the score, by their places."""

    first: int
    second: int
    contribution: float


class ExplainResponse(BaseModel):
    """A score and all it is made of. Exact arithmetic of the score, not a claim about causes."""

    object: Literal["explanation"]
    model: str
    fingerprint: str
    pooling: Pooling
    score: float = Field(description="cosine of the two vectors")
    first: SideBody
    second: SideBody
    table: list[list[float]] = Field(description="a row per segment of `first`; all cells add up to the score")
    pairs: list[PairBody] = Field(description="the largest cells, largest first")
    usage: EmbedUsage


@router.post(
    "/explain",
    summary="Take the score of two texts apart",
    response_class=Response,
    responses={200: {"model": ExplainResponse}, **problems(400, 413, 422, 429)},
)
async def explain_route(body: ExplainRequest, request: Request) -> Response:
    """Embed both texts and say which sentences of the one, with which of the other, their cosine is made of."""
    house: House = request.app.state.house
    roles: tuple[Role, Role] = (body.first.role or "query", body.second.role or "document")
    first, second = await _embed_both(house, body, roles)
    # Many sentences make a large table: not on the event loop.
    content = await asyncio.to_thread(_content, house, body, roles, first, second)
    return as_json(content)


async def _embed_both(house: House, body: ExplainRequest, roles: tuple[Role, Role]) -> tuple[Embedded, Embedded]:
    try:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(_embed(house, "first", body.first, body, roles[0]))
            second = group.create_task(_embed(house, "second", body.second, body, roles[1]))
    except BaseExceptionGroup as errors:
        # One cause is enough for the caller; the group has cancelled the other.
        raise errors.exceptions[0] from None
    return first.result(), second.result()


async def _embed(house: House, name: str, text: TextIn, body: ExplainRequest, role: Role) -> Embedded:
    options = Options(
        role=role,
        mode=body.mode,
        pooling=body.pooling,
        max_rationale_tokens=body.max_rationale_tokens,
        temperature=body.temperature,
        n=body.n,
        dimensions=body.dimensions,
    )
    given = None if text.rationale is None else [text.rationale]
    try:
        [embedded] = await embed(house, [text.text], options, given)
    except (ApiError, InvalidInput) as error:
        if error.param in _FIELDS:
            error.param = name + _FIELDS[error.param]  # the embedding knows neither side nor our names
        raise
    return embedded


_FIELDS = {"input": "", "rationale": ".rationale"}


def _content(
    house: House, body: ExplainRequest, roles: tuple[Role, Role], first: Embedded, second: Embedded
) -> dict[str, Any]:
    table: Table = take_apart(first, second, dimensions=body.dimensions, top_pairs=body.top_pairs)
    return {
        "object": "explanation",
        "model": house.model_name,
        "fingerprint": house.checkpoint.fingerprint,
        "pooling": first.pooling,
        "score": table.score,
        "first": _side(roles[0], first, table.first),
        "second": _side(roles[1], second, table.second),
        "table": table.table.tolist(),
        "pairs": [{"first": p.first, "second": p.second, "contribution": p.contribution} for p in table.pairs],
        "usage": embed_usage([first, second]),
    }


def _side(role: Role, embedded: Embedded, side: attribution_table.Side) -> dict[str, Any]:
    return {
        "role": role,
        "rationale": rationale_body(embedded.rationale),
        "input_tokens": embedded.jobs[0].input_tokens,
        "truncated": embedded.jobs[0].truncated,
        "cached": embedded.cached,
        "consistency": embedded.consistency,
        "segments": [
            {
                "source": row.part.source,
                "text": row.part.text,
                "start": row.part.start,
                "end": row.part.end,
                "tokens": row.part.tokens,
                "sample": row.part.sample,
                "share": row.share,
                "contribution": row.contribution,
                "without": row.without,
            }
            for row in side.rows
        ],
        "sources": [{"source": p.source, "contribution": p.contribution, "share": p.share} for p in side.portions],
        "gram": None if side.gram is None else side.gram.tolist(),
    }
