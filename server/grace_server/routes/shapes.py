"""How embeddings look on the wire. Plain dicts: validating thousands of floats again would cost more than pooling."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response

from grace.pooling import Floats
from grace.representation import FinishReason, Rationale
from grace_server.attribution_table import portions
from grace_server.embedding import Embedded
from grace_server.segments import explain as shares_of

Encoding = Literal["float", "base64"]


class RationaleBody(BaseModel):
    """What the model wrote about a text."""

    text: str = Field(description="as written, with its tags")
    thinking: str = Field(description="inside <think>")
    understanding: str = Field(description="after it")
    tokens: int
    finish_reason: FinishReason


def as_json(content: Mapping[str, Any] | Sequence[Any], status: int = 200) -> Response:
    """A response without a detour through models."""
    return Response(dumps(content), status, media_type="application/json")


def dumps(content: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """Compact JSON. Its numbers are finite: engines refuse other states, so what derives from them is, too."""
    try:
        return orjson.dumps(content)  # in a tenth of the time that the standard library takes for a vector
    except TypeError:  # what only the latter knows: numbers beyond 64 bits, say
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def encoded(vector: Floats, encoding: Encoding) -> list[float] | str:
    """The vector as numbers, or as base64 of little-endian float32.

    Raises:
        ValueError: not all of them are finite: JSON cannot hold that, and nobody could search with it.
    """
    if not np.isfinite(vector).all():
        raise ValueError("a vector is not finite")
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    numbers: list[float] = vector.tolist()
    return numbers


def rationale_body(rationale: Rationale | None) -> dict[str, Any] | None:
    """`RationaleBody`, as a dict."""
    if rationale is None:
        return None
    return {
        "text": rationale.text,
        "thinking": rationale.thinking,
        "understanding": rationale.understanding,
        "tokens": rationale.tokens,
        "finish_reason": rationale.finish_reason,
    }


def embed_item(
    index: int,
    embedded: Embedded,
    encoding: Encoding,
    *,
    explain: bool,
    dimensions: int | None,
    audit: dict[str, Any] | None,
) -> dict[str, Any]:
    """`EmbedItem`, as a dict; the same in a list and in a stream."""
    segments = sources = None
    if explain:
        found = shares_of(embedded, dimensions=dimensions)
        segments = [
            {
                "source": part.source,
                "text": part.text,
                "start": part.start,
                "end": part.end,
                "tokens": part.tokens,
                "sample": part.sample,
                "share": share,
            }
            for part, share in ((each.part, each.share) for each in found)
        ]
        sources = [
            {"source": portion.source, "share": portion.contribution}
            for portion in portions(((each.part.source, each.share) for each in found), 1.0)
        ]
    return {
        "object": "embedding",
        "index": index,
        "embedding": encoded(embedded.vector, encoding),
        "rationale": rationale_body(embedded.rationale),
        "input_tokens": embedded.jobs[0].input_tokens,
        "truncated": embedded.jobs[0].truncated,
        "cached": embedded.cached,
        "consistency": embedded.consistency,
        "segments": segments,
        "sources": sources,
        "audit": audit,
    }


def embed_usage(embedded: Sequence[Embedded]) -> dict[str, int]:
    """`EmbedUsage`, as a dict."""
    prompt = sum(e.prompt_tokens for e in embedded)
    completion = sum(e.completion_tokens for e in embedded)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
