"""Text Embeddings Inference's endpoints, under `/tei`: its clients are given that as their base URL.

Its `/embed` and `/info` bear the names of ours and mean something else; under a prefix neither has to guess. Its answer
is a bare list of vectors, without a place for a rationale: whoever wants one asks `/embed`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.responses import Response

from grace.pooling import unit
from grace.representation import Role
from grace_server.embedding import Options, aside, embed
from grace_server.errors import problems
from grace_server.house import House
from grace_server.request_body import FIRST
from grace_server.routes.guests import named, texts_only
from grace_server.routes.shapes import as_json, encoded

router = APIRouter(prefix="/tei", tags=["tei"])

_LENIENT = ConfigDict(extra="ignore", strict=True, frozen=True)


class TeiParameters(BaseModel):
    """What TEI's requests have in common. Fields it may grow are ignored, as its clients expect."""

    model_config = _LENIENT

    prompt_name: Role | None = Field(
        None, description="which instruction the model reads the texts under; by default `document`"
    )
    truncate: bool | None = Field(None, description="cut a text over the token limit; `false` answers 413 instead")
    truncation_direction: Literal["right", "Right"] | None = Field(None, description="only the end of a text is cut")

    def options(self, *, dimensions: int | None = None, normalize: bool = True) -> Options:
        """How to embed."""
        return Options(
            role=self.prompt_name or "document",
            truncate=self.truncate is not False,
            dimensions=dimensions,
            normalize=normalize,
        )


class TeiEmbedRequest(TeiParameters):
    """TEI's request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["The river rises in the hills."]}]})

    inputs: str | Annotated[list[str], FIRST, Field(min_length=1)] = Field(description="a text, or several")
    normalize: bool = Field(True, description="scale the vectors to length 1")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="keep this many leading dimensions")

    @field_validator("inputs", mode="before")
    @classmethod
    def _no_token_ids(cls, value: object) -> object:
        return texts_only(value)


class TeiSentences(BaseModel):
    """One sentence, and those it is compared with."""

    model_config = _LENIENT

    source_sentence: str
    sentences: Annotated[list[str], FIRST, Field(min_length=1)]


class TeiSimilarityRequest(BaseModel):
    """TEI's request for cosines."""

    model_config = _LENIENT

    inputs: TeiSentences
    parameters: TeiParameters | None = Field(None, description="of all sentences alike")


class TeiPooling(BaseModel):
    """Which of TEI's poolings ours comes nearest to."""

    pooling: Literal["mean", "last_token"]


class TeiModelType(BaseModel):
    """That the model embeds."""

    embedding: TeiPooling


class TeiInfo(BaseModel):
    """What TEI tells about itself, of this service."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model_sha: str
    model_dtype: str
    model_type: TeiModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int
    max_client_batch_size: int
    auto_truncate: Literal[True]
    tokenization_workers: int
    version: str
    sha: None
    docker_label: None


_TROUBLE = problems(400, 413, 422, 429)


@router.post(
    "",
    summary="Embed texts as TEI does, at its base URL",
    response_class=Response,
    responses={200: {"model": list[list[float]]}, **_TROUBLE},
)
@router.post(
    "/embed",
    summary="Embed texts as TEI does",
    response_class=Response,
    responses={200: {"model": list[list[float]]}, **_TROUBLE},
)
async def tei_embed(body: TeiEmbedRequest, request: Request) -> Response:
    """A list of vectors, also for a single text."""
    house: House = request.app.state.house
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    with named(input="inputs"):
        embedded = await embed(house, texts, body.options(dimensions=body.dimensions, normalize=body.normalize))
    return await aside(len(embedded), lambda: as_json([encoded(e.vector, "float") for e in embedded]))


@router.post(
    "/similarity",
    summary="Compare a sentence with others as TEI does",
    response_class=Response,
    responses={200: {"model": list[float]}, **_TROUBLE},
)
async def tei_similarity(body: TeiSimilarityRequest, request: Request) -> Response:
    """The cosine of the first sentence with each of the others, all read under the same instruction."""
    house: House = request.app.state.house
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    places = {f"input[{1 + i}]": f"inputs.sentences[{i}]" for i in range(len(body.inputs.sentences))}
    with named(**places, **{"input[0]": "inputs.source_sentence"}, input="inputs"):
        embedded = await embed(house, texts, (body.parameters or TeiParameters.model_validate({})).options())
    vectors = unit(np.stack([e.vector for e in embedded]).astype(np.float64))  # (1 + S, D); float32 misses length 1
    cosines: list[float] = np.clip(vectors[1:] @ vectors[0], -1, 1).tolist()
    return as_json(cosines)


@router.get("/info", summary="What is served, as TEI tells it", response_model=TeiInfo)
async def tei_info(request: Request) -> Response:
    """Limits under TEI's names."""
    house: House = request.app.state.house
    settings = house.settings
    content: dict[str, Any] = {
        "model_id": house.model_name,
        "model_sha": house.checkpoint.fingerprint,
        "model_dtype": settings.dtype,
        "model_type": {"embedding": {"pooling": "last_token" if house.checkpoint.config.pooling == "last" else "mean"}},
        "max_concurrent_requests": settings.max_running_requests + settings.max_queued_requests,
        "max_input_length": house.prompter.max_input_tokens,
        "max_batch_tokens": settings.max_running_tokens,
        "max_batch_requests": settings.max_running_requests,
        "max_client_batch_size": settings.max_inputs,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": version("grace-embed"),
        "sha": None,
        "docker_label": None,
    }
    return as_json(content)
