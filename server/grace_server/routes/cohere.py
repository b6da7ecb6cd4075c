"""Cohere's embedding endpoints: `/v2/embed` for its SDK's `ClientV2` and Haystack, `/v1/embed` for its older `Client`,
through which LangChain and LlamaIndex speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.responses import Response
from typing_extensions import TypedDict

from grace.representation import Role
from grace_server import logs
from grace_server.embedding import Embedded, Options, aside, embed
from grace_server.errors import problems
from grace_server.house import House
from grace_server.request_body import FIRST
from grace_server.routes.guests import known, named
from grace_server.routes.shapes import Encoding, RationaleBody, as_json, embed_usage, encoded, rationale_body

router = APIRouter(tags=["cohere"])

# There are two instructions here: what is neither asked nor found is read as a document.
ROLES: dict[str | None, Role] = {"search_query": "query"}


class CohereRequest(BaseModel):
    """Cohere's request. Fields it may grow are ignored, as its clients expect; `rationale` is ours."""

    model_config = ConfigDict(
        extra="ignore",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [
                {"model": "grace-tiny", "input_type": "search_document", "texts": ["The river rises in the hills."]}
            ]
        },
    )

    texts: Annotated[list[str], FIRST, Field(min_length=1)] = Field(description="what to embed")
    model: str | None = Field(None, description="name, fingerprint or alias of the model served")
    input_type: Literal["search_document", "search_query", "classification", "clustering"] | None = Field(
        None, description="`search_query` is read under the instruction for queries, all else under that for documents"
    )
    embedding_types: Annotated[list[Encoding], FIRST, Field(min_length=1)] | None = Field(
        None, description="`float`, `base64` (little-endian float32), or both; by default `float`"
    )
    output_dimension: Annotated[int, Field(ge=1)] | None = Field(None, description="keep this many leading dimensions")
    truncate: Literal["NONE", "END"] | None = Field(
        None, description="`END`, the default, cuts a text over the token limit; `NONE` answers 413 instead"
    )
    rationale: bool = Field(False, description="give the rationales as a further key")
    images: Any = Field(None, description="refused: there are only texts here")
    inputs: Any = Field(None, description="refused: texts go into `texts`")
    max_tokens: Any = Field(None, description="refused: texts are cut where the model's limit is")

    @field_validator("images", "inputs", "max_tokens")
    @classmethod
    def _refused(cls, value: object) -> object:
        if value is not None:
            raise ValueError("not taken here: send texts, which are cut where the model's limit is")
        return value

    def options(self) -> Options:
        """How to embed."""
        return Options(
            role=ROLES.get(self.input_type, "document"),
            dimensions=self.output_dimension,
            truncate=self.truncate != "NONE",
        )


# Not as a class: inside it, `float` would be the key.
CohereVectors = TypedDict("CohereVectors", {"float": list[list[float]], "base64": list[str]}, total=False)  # noqa: UP013


class CohereVersion(BaseModel):
    """Which of Cohere's formats this is."""

    version: Literal["1", "2"]


class CohereUnits(BaseModel):
    """Tokens of the whole request: those of the prompts, and those of the rationales."""

    input_tokens: int
    output_tokens: int


class CohereMeta(BaseModel):
    """What Cohere tells about an answer."""

    api_version: CohereVersion
    billed_units: CohereUnits


class CohereResponse(TypedDict):
    """The embeddings, in the order of the texts."""

    id: str
    response_type: Literal["embeddings_floats", "embeddings_by_type"]
    embeddings: list[list[float]] | CohereVectors
    texts: list[str]
    meta: CohereMeta
    rationales: NotRequired[list[RationaleBody]]


_ANSWERS = {200: {"model": CohereResponse}, **problems(400, 404, 413, 422, 429)}


@router.post("/v2/embed", summary="Embed texts as Cohere does", response_class=Response, responses=_ANSWERS)
async def embed_v2(body: CohereRequest, request: Request) -> Response:
    """Embed each text, with a rationale that stays behind unless asked for; vectors by their type."""
    embedded = await _embed(body, request.app.state.house)
    types = body.embedding_types or ["float"]
    return await aside(
        len(embedded) * len(types), lambda: as_json(_answer(body, "2", _by_type(embedded, types), embedded))
    )


@router.post("/v1/embed", summary="The same as Cohere did first", response_class=Response, responses=_ANSWERS)
async def embed_v1(body: CohereRequest, request: Request) -> Response:
    """As `/v2/embed`; without `embedding_types` the vectors are a plain list."""
    embedded = await _embed(body, request.app.state.house)
    types = body.embedding_types

    def answer() -> Response:
        vectors = _by_type(embedded, types) if types else [encoded(e.vector, "float") for e in embedded]
        return as_json(_answer(body, "1", vectors, embedded))

    return await aside(len(embedded) * len(types or ["float"]), answer)


async def _embed(body: CohereRequest, house: House) -> list[Embedded]:
    if body.model is not None:
        known(house, body.model)
    with named(input="texts", dimensions="output_dimension"):
        return await embed(house, body.texts, body.options())


def _by_type(embedded: Sequence[Embedded], types: Sequence[Encoding]) -> dict[str, list[list[float] | str]]:
    return {kind: [encoded(e.vector, kind) for e in embedded] for kind in types}


def _answer(body: CohereRequest, version: str, vectors: Any, embedded: Sequence[Embedded]) -> dict[str, Any]:
    record, usage = logs.current.get(), embed_usage(embedded)
    answer = {
        "id": record.request_id if record else "",
        "response_type": "embeddings_by_type" if isinstance(vectors, dict) else "embeddings_floats",
        "embeddings": vectors,
        "texts": body.texts,
        "meta": {
            "api_version": {"version": version},
            "billed_units": {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]},
        },
    }
    if body.rationale:
        answer["rationales"] = [rationale_body(e.rationale) for e in embedded]
    return answer
