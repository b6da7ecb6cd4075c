"""`POST /embed`: a text, or several; their rationales and vectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from grace.pooling import Pooling
from grace.representation import Mode, Role
from grace_server.audit.record import records, signer_of
from grace_server.embedding import Options, aside, embed
from grace_server.errors import InvalidValue, problems
from grace_server.house import House
from grace_server.request_body import FIRST, RequestBody
from grace_server.routes import embed_stream
from grace_server.routes.shapes import Encoding, RationaleBody, as_json, embed_item, embed_usage

router = APIRouter(tags=["embeddings"])


class EmbedRequest(RequestBody):
    """What to embed, and how. A field that is not listed here is refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"input": "The river rises in the hills.", "explain": True}]},
    )

    input: str | Annotated[list[str], FIRST, Field(min_length=1)] = Field(description="a text, or several")
    role: Role = Field("document", description="which instruction the model reads the text under")
    mode: Mode = Field("reason", description="`direct` writes no rationale and pools the text alone")
    pooling: Pooling | None = Field(None, description="which states are averaged; by default as the checkpoint says")
    max_rationale_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="budget of each rationale")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="0 is greedy; by default as the checkpoint says"
    )
    n: int = Field(1, ge=1, description="rationales per text, whose vectors are averaged; needs a temperature above 0")
    rationale: str | Annotated[list[str], FIRST] | None = Field(
        None, description="rationales to pool instead of writing some"
    )
    dimensions: Annotated[int, Field(ge=1)] | None = Field(None, description="keep this many leading dimensions")
    normalize: bool = Field(True, description="scale the vector to length 1")
    encoding_format: Encoding = Field("float", description="`base64` is little-endian float32")
    truncate: bool = Field(True, description="cut a text over the token limit; `false` answers 413 instead")
    explain: bool = Field(False, description="tell the share of each segment in its vector")
    audit: bool = Field(
        False, description="a signed record of what each vector was made from; needs a key at the server"
    )
    stream: bool = Field(False, description="server-sent events: the rationale as it is written, then the vector")

    def texts(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input

    def given(self) -> list[str] | None:
        """The given rationales, one for each text."""
        if self.rationale is None:
            return None
        written = [self.rationale] if isinstance(self.rationale, str) else self.rationale
        if len(written) != (count := len(self.texts())):
            raise InvalidValue(
                f"rationale must hold one text for each input: {count}, not {len(written)}", param="rationale"
            )
        return written

    def options(self) -> Options:
        """How to embed."""
        return Options(
            role=self.role,
            mode=self.mode,
            pooling=self.pooling,
            max_rationale_tokens=self.max_rationale_tokens,
            temperature=self.temperature,
            n=self.n,
            dimensions=self.dimensions,
            normalize=self.normalize,
            truncate=self.truncate,
        )


class SegmentBody(BaseModel):
    """A sentence of the text or of the rationale, or the template between them, and its share in the vector."""

    source: Literal["input", "template", "rationale"]
    text: str
    start: int = Field(description="in characters (code points) of the text or of the rationale")
    end: int
    tokens: int = Field(description="whose states were pooled")
    sample: int = Field(description="of which of n rationales it is; 0 for what they share")
    share: float


class SourceBody(BaseModel):
    """What the text, the template and the rationale are of a vector."""

    source: Literal["input", "template", "rationale"]
    share: float


class AuditBody(BaseModel):
    """What a vector was made from, signed. The text is there as a hash only."""

    record: dict[str, Any]
    signature: str = Field(description="base64: Ed25519 over the record's JSON, keys sorted, no spaces, in ASCII")


class EmbedItem(BaseModel):
    """One text, embedded."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    rationale: RationaleBody | None
    input_tokens: int
    truncated: bool
    cached: bool
    consistency: float | None = Field(description="mean pairwise cosine of n rationales' vectors")
    segments: list[SegmentBody] | None = Field(description="their shares add up to 1")
    sources: list[SourceBody] | None = Field(description="the same by source")
    audit: AuditBody | None = Field(description="a line for `grace-index audit verify`")


class EmbedUsage(BaseModel):
    """Tokens of the whole request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class EmbedResponse(BaseModel):
    """The embeddings, in the order of the input."""

    object: Literal["list"]
    model: str
    fingerprint: str
    data: list[EmbedItem]
    usage: EmbedUsage


_EVENT_SCHEMA = {
    "type": "object",
    "description": "one event; its data is JSON",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["rationale", "embedding", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}


@router.post(
    "/embed",
    summary="Embed texts and say why",
    response_class=Response,
    responses={
        200: {
            "model": EmbedResponse,
            "description": "Embeddings; with `stream` the events rationale, embedding, done, or error",
            "content": {"text/event-stream": {"schema": _EVENT_SCHEMA}},
        },
        **problems(400, 413, 422, 429),
    },
)
async def embed_route(body: EmbedRequest, request: Request) -> Response:
    """Write a rationale for each text and pool the model's states over both into a vector."""
    house: House = request.app.state.house
    options, explain = body.options(), body.explain
    if body.audit:
        signer_of(house)  # refused before anything is computed
    if body.stream:
        shown = embed_stream.Shown(body.encoding_format, explain, body.audit)
        return await embed_stream.begin(house, body.texts(), options, body.given(), shown)
    embedded = await embed(house, body.texts(), options, body.given())
    dimensions = options.dimensions if explain else None

    def answer() -> Response:
        audited = records(house, body.texts(), options, embedded, wanted=body.audit)
        return as_json(
            {
                "object": "list",
                "model": house.model_name,
                "fingerprint": house.checkpoint.fingerprint,
                "data": [
                    embed_item(i, e, body.encoding_format, explain=explain, dimensions=dimensions, audit=line)
                    for i, (e, line) in enumerate(zip(embedded, audited, strict=True))
                ],
                "usage": embed_usage(embedded),
            }
        )

    return await aside(len(embedded) * options.n, answer)
