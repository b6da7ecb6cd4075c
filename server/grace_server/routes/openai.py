"""OpenAI's embedding and model endpoints, to the letter: its unmodified clients are the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.responses import Response
from typing_extensions import TypedDict

from grace.representation import Mode, Role
from grace_server.embedding import Embedded, Options, aside, embed
from grace_server.errors import problems
from grace_server.house import House
from grace_server.request_body import FIRST, RequestBody
from grace_server.routes.guests import known, texts_only
from grace_server.routes.shapes import Encoding, RationaleBody, as_json, embed_usage, encoded, rationale_body

router = APIRouter(prefix="/v1", tags=["openai"])


class EmbeddingsRequest(RequestBody):
    """OpenAI's request. Fields it may grow are ignored, as its clients expect; `role`, `mode`, `rationale` are ours."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"model": "grace-tiny", "input": "The river rises in the hills."}]},
    )

    input: str | Annotated[list[str], FIRST, Field(min_length=1)] = Field(description="a text, or several")
    model: str = Field(description="name, fingerprint or alias of the model served")
    encoding_format: Encoding | None = Field(None, description="`float` by default; clients ask for `base64`")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="keep this many leading dimensions")
    user: str | None = Field(None, description="accepted and not used")
    role: Role = Field("document", description="which instruction the model reads the texts under")
    mode: Mode = Field("reason", description="`direct` writes no rationale and pools the text alone")
    rationale: bool = Field(False, description="give each item its rationale as a further key")
    seed: Any = Field(None, description="refused: rationales are greedy, and repeatable without one")

    @field_validator("input", mode="before")
    @classmethod
    def _no_token_ids(cls, value: object) -> object:
        return texts_only(value, hint=" (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))")

    @field_validator("seed")
    @classmethod
    def _no_seed(cls, value: object) -> object:
        if value is not None:
            raise ValueError("cannot be honoured: rationales are greedy, and repeatable without one")
        return value


class EmbeddingItem(TypedDict):
    """One embedding."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    rationale: NotRequired[RationaleBody | None]  # None in mode `direct`


class EmbeddingsUsage(BaseModel):
    """Tokens of the whole request; the total has those of the rationales."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """The embeddings, in the order of the input."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingsUsage


class ModelItem(BaseModel):
    """A model one may ask for."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All of them: the one that is served, and its aliases."""

    object: Literal["list"]
    data: list[ModelItem]


@router.post(
    "/embeddings",
    summary="Embed texts as OpenAI does",
    response_class=Response,
    responses={200: {"model": EmbeddingsResponse}, **problems(400, 404, 413, 422, 429)},
)
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Embed each text, as a document unless told otherwise, with a rationale that stays behind unless asked for."""
    house: House = request.app.state.house
    known(house, body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input
    embedded = await embed(house, texts, Options(role=body.role, mode=body.mode, dimensions=body.dimensions))
    return await aside(len(embedded), lambda: as_json(_answer(house, body, embedded)))


@router.get("/models", summary="List the model and its aliases", response_model=ModelList)
async def models(request: Request) -> Response:
    """Every name that `/v1/embeddings` accepts, the fingerprint aside."""
    house: House = request.app.state.house
    return as_json(
        {
            "object": "list",
            "data": [_model(house, name) for name in (house.model_name, *house.settings.model_aliases)],
        }
    )


@router.get("/models/{model_id:path}", summary="Look a model up", response_model=ModelItem, responses=problems(404))
async def model(model_id: str, request: Request) -> Response:
    """One of them."""
    house: House = request.app.state.house
    known(house, model_id)
    return as_json(_model(house, model_id))


def _answer(house: House, body: EmbeddingsRequest, embedded: Sequence[Embedded]) -> dict[str, Any]:
    items: list[dict[str, Any]] = [
        {"object": "embedding", "index": i, "embedding": encoded(e.vector, body.encoding_format or "float")}
        for i, e in enumerate(embedded)
    ]
    if body.rationale:
        items = [item | {"rationale": rationale_body(e.rationale)} for item, e in zip(items, embedded, strict=True)]
    usage = embed_usage(embedded)
    return {
        "object": "list",
        "data": items,
        "model": house.model_name,
        "usage": {"prompt_tokens": usage["prompt_tokens"], "total_tokens": usage["total_tokens"]},
    }


def _model(house: House, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": house.created, "owned_by": "grace"}
