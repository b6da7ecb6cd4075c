"""What the types of answers stand on."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from grace_client.errors import BadAnswer

Role = Literal["query", "document"]
Mode = Literal["reason", "direct"]
Pooling = Literal["mean", "rationale", "input", "last"]
Method = Literal["dense", "lexical", "hybrid"]
Source = Literal["input", "template", "rationale"]
State = Literal["pending", "ready", "failed", "cancelled"]


class Result(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(frozen=True)


class Rationale(Result):
    """What the model wrote about a text."""

    text: str  # as written, with its tags
    thinking: str
    understanding: str
    tokens: int
    finish_reason: str


class Usage(Result):
    """Tokens of the whole request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


Kind = TypeVar("Kind", bound=BaseModel)


def read(kind: type[Kind], content: str | bytes, *, request_id: str | None = None) -> Kind:
    """An answer as a model.

    Raises:
        BadAnswer: it is none of a GRACE server.
    """
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "body"
        raise BadAnswer(
            f"the answer is no {kind.__name__} of a GRACE server: {where}: {first['msg']}", request_id=request_id
        ) from error
