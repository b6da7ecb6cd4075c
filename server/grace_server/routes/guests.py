"""What the wire formats of other services share: their names for our fields, and what none of them can have here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from grace.errors import InvalidInput
from grace_server.errors import ApiError, ModelNotFound, renamed
from grace_server.house import House


def known(house: House, name: str) -> None:
    """Refuse a request that is meant for another model."""
    if not house.answers_to(name):
        raise ModelNotFound(f"the model {name[:200]!r} is not served here; {house.model_name!r} is", param="model")


def texts_only(value: object, *, hint: str = "") -> object:
    """Refuse token ids in place of texts, before pydantic complains of each of them. `hint` says what to do instead."""
    if isinstance(value, list) and value and isinstance(value[0], int | list):
        raise ValueError(f"token ids mean nothing to this model's tokenizer, send texts{hint}")
    return value


@contextmanager
def named(**names: str) -> Iterator[None]:
    """Errors name the field as this format does: `named(input="texts")`, which renames `input[3]` too."""
    try:
        yield
    except (ApiError, InvalidInput) as error:
        field, bracket, place = (error.param or "").partition("[")
        if error.param in names:
            raise renamed(error, names[error.param]) from error
        if field in names:
            raise renamed(error, names[field] + bracket + place) from error
        raise
