"""`POST /explain`: the score of two texts, or of a query and a document of an index, sentence by sentence."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from grace.pooling import Pooling
from grace.representation import Mode, Role
from grace_server.attribution_table import cosine
from grace_server.comparison import Compared, Stored, Words, compare_in_index, compare_texts
from grace_server.embedding import Options
from grace_server.errors import InvalidValue, problems
from grace_server.explaining import Asked, take_apart_fully
from grace_server.house import House
from grace_server.index.collection import Collection
from grace_server.index.indexes import Indexes
from grace_server.request_body import FIRST, RequestBody
from grace_server.routes.explain_shapes import ExplainResponse, content
from grace_server.routes.shapes import as_json
from grace_server.tokens import Token, token_contributions

router = APIRouter(tags=["embeddings"])

Place = Annotated[int, Field(ge=0)]
TOKENS_OFF = 0.005  # of a score: bfloat16 rounds by less, other tokens are further off


class SideIn(RequestBody):
    """One of the two sides: a text, or a document of `index`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: str | None = Field(None, description="either this")
    id: str | None = Field(None, description="or the id of a document of `index`, from stored sums")
    role: Role | None = Field(None, description="of a text; by default the first is a query, the second a document")
    rationale: str | None = Field(None, description="of a text: pooled instead of writing one")

    def side(self, name: str, role: Role) -> Words | Stored:
        """What it stands for, checked."""
        if (self.text is None) == (self.id is None):
            raise InvalidValue(f"{name} takes either text or id", param=f"{name}.text")
        if self.text is not None:
            return Words(self.text, self.role or role, self.rationale)
        if self.role is not None or self.rationale is not None:
            field = "role" if self.role is not None else "rationale"
            raise InvalidValue(f"{name}.{field} is of a text: a stored document has its own", param=f"{name}.{field}")
        return Stored(self.id or "")


def _as_side(value: object) -> object:
    return {"text": value} if isinstance(value, str) else value


SideField = Annotated[SideIn, BeforeValidator(_as_side, json_schema_input_type=str | SideIn)]


class WithoutIn(RequestBody):
    """Segments to leave out, by their places."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    first: Annotated[list[Place], FIRST] = Field(default_factory=list, max_length=1000)
    second: Annotated[list[Place], FIRST] = Field(default_factory=list, max_length=1000)


class ExplainRequest(RequestBody):
    """What to compare, and how. A field that is not listed here is refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [{"first": "Where does the river rise?", "second": "The river rises in the hills. It is long."}]
        },
    )

    first: SideField = Field(description="a text, or an object; a query unless it says otherwise")
    second: SideField = Field(description="the same; a document unless it says otherwise")
    against: SideField | None = Field(
        None, description="why `second` scores higher or lower than this: the difference of the two tables"
    )
    index: str | None = Field(
        None, description="compare as this index does; a side may then be a document of it, given by `id`"
    )
    mode: Mode | None = Field(None, description="`direct` writes no rationale; by default `reason`, or as `index` says")
    pooling: Pooling | None = Field(None, description="which states are averaged; by default as the checkpoint says")
    max_rationale_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="budget of each rationale")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="0 is greedy; by default as the checkpoint says"
    )
    n: int = Field(1, ge=1, description="rationales per text, whose vectors are averaged; needs a temperature above 0")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="keep this many leading dimensions")
    top_pairs: int = Field(10, ge=0, le=1000, description="how many pairs to list by their contribution")
    without: WithoutIn | None = Field(None, description="the score, and the rank, without these segments")
    ranks: bool = Field(True, description="of a query and a document of `index`: ranks in it, without each segment")
    centred: bool = Field(False, description="the same with the mean of `index` subtracted from both vectors")
    tokens: bool = Field(False, description="what every token adds; runs both sides once more, without writing")


@router.post(
    "/explain",
    summary="Take a score apart",
    response_class=Response,
    responses={200: {"model": ExplainResponse}, **problems(400, 404, 409, 413, 422, 429)},
)
async def explain_route(body: ExplainRequest, request: Request) -> Response:
    """Say which sentences of the one side, with which of the other, their cosine is made of."""
    house: House = request.app.state.house
    first, second = body.first.side("first", "query"), body.second.side("second", "document")
    against = None if body.against is None else body.against.side("against", "document")
    indexes: Indexes = request.app.state.indexes
    collection: Collection | None = None
    if body.index is None:
        sides = await _texts(house, body, first, second, against)
        pooling, dimensions = sides[0].pooling(house), body.dimensions
    else:
        collection = indexes.catalog.get(body.index)
        _check_against_index(collection, body)
        named = [("first", first), ("second", second), *([("against", against)] if against else [])]
        sides = await compare_in_index(indexes, collection, body.mode, *named)
        pooling, dimensions = collection.settings.pooling, collection.settings.dimensions
    if body.tokens and collection is not None:
        indexes.model.check(collection)  # stored sums need no model, but tokens are run once more, by ours
    tokens = await _tokens(house, body, collection, sides, pooling) if body.tokens else None
    asked = Asked(
        dimensions=dimensions,
        top_pairs=body.top_pairs,
        without=None if body.without is None else (body.without.first, body.without.second),
        ranks=body.ranks,
        centred=body.centred,
    )
    # Many sentences make a large table, and ranks search the index: neither belongs on the event loop.
    if collection is None:
        found = await asyncio.to_thread(take_apart_fully, sides, None, asked)
    else:
        found = await indexes.on_search_thread(lambda: take_apart_fully(sides, collection, asked))
    return as_json(content(house, pooling, body.index, sides, found, tokens))


async def _texts(
    house: House, body: ExplainRequest, first: Words | Stored, second: Words | Stored, against: Words | Stored | None
) -> list[Compared]:
    for name, side in (("first", first), ("second", second), ("against", against)):
        if isinstance(side, Stored):
            raise InvalidValue(f"{name}.id needs index: which index is the document in?", param="index")
    if body.centred:
        raise InvalidValue("centred needs index: the mean that is subtracted is that of an index", param="centred")
    if body.tokens and body.n > 1:
        raise InvalidValue("tokens needs n = 1: one pass has one rationale", param="tokens")
    options = Options(
        mode=body.mode or "reason",
        pooling=body.pooling,
        max_rationale_tokens=body.max_rationale_tokens,
        temperature=body.temperature,
        n=body.n,
        dimensions=body.dimensions,
    )
    given = [("first", first), ("second", second), ("against", against)]
    return await compare_texts(house, options, *((name, side) for name, side in given if isinstance(side, Words)))


def _check_against_index(collection: Collection, body: ExplainRequest) -> None:
    own = ("pooling", "max_rationale_tokens", "temperature", "dimensions")
    for name in [name for name in own if getattr(body, name) is not None] + (["n"] if body.n > 1 else []):
        raise InvalidValue(f"{name} is the index's own: leave it out beside index", param=name)
    if collection.settings.metric != "cosine":
        raise InvalidValue(
            "index has the metric 'dot', whose scores know lengths: /explain compares cosines. Its hits are explained "
            "by /search with explain",
            param="index",
        )


async def _tokens(
    house: House, body: ExplainRequest, collection: Collection | None, sides: list[Compared], pooling: Pooling
) -> tuple[list[Token], list[Token]]:
    mode = collection.settings.document_mode if collection else body.mode or "reason"  # of what is stored
    first, second = sides[0], sides[1]

    async def one(name: str, side: Compared, other: Compared) -> list[Token]:
        run = await asyncio.to_thread(side.run, house, mode)  # a stored text is tokenised, which may be a long one
        tokens = await token_contributions(house.front, house.prompter, run, other.side.vector, pooling=pooling)
        off = cosine(side.side.vector, other.side.vector) - sum(token.contribution for token in tokens)
        if abs(off) > TOKENS_OFF:
            raise InvalidValue(
                f"tokens of {name} would miss the score by {off:.4f}: the index keeps the rationale as text, which is "
                "read as other tokens than were written; its sentences are exact all the same",
                param="tokens",
            )
        return tokens

    return await one("first", first, second), await one("second", second, first)
