"""What bodies of requests have in common: one that is wrong in a million places is refused at the first.

pydantic collects every complaint, and a body of the size we take can hold millions: making them would stop the service
for minutes, though one is told.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, model_validator

FIRST: Any = Field(fail_fast=True)  # on every list of a body
MOST_FIELDS = 100  # of an object whose fields are known


class RequestBody(BaseModel):
    """A body, or an object in one, that says what fields it has."""

    @model_validator(mode="before")
    @classmethod
    def _narrow(cls, data: Any) -> Any:
        if isinstance(data, dict) and len(data) > MOST_FIELDS:
            raise ValueError(f"an object of {len(data)} fields, where at most {len(cls.model_fields)} are known")
        return data
