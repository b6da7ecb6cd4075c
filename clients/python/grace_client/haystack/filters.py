"""Haystack's filters are the server's, but for a few words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from haystack.errors import FilterError

from grace_client import wire
from grace_client.errors import InvalidValue

_ORDER = (">", ">=", "<", "<=")


def to_server(filters: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A filter as the server takes it; None for none.

    Raises:
        FilterError: a condition that is no object, or `in` without a list, which JSON could no longer tell from one.
    """
    if not filters:
        return None
    if not isinstance(filters, Mapping):
        raise FilterError(f"a condition is an object, not {type(filters).__name__}: {str(filters)[:80]!r}")
    if isinstance(filters.get("conditions"), list):
        return {**filters, "conditions": [to_server(inner) or inner for inner in filters["conditions"]]}
    operator, value = filters.get("operator"), filters.get("value")
    if operator in ("in", "not in") and not isinstance(value, list):
        raise FilterError(f"operator {operator!r} takes a list, not {type(value).__name__}")
    if operator in _ORDER and "value" in filters and value is None:
        return dict(wire.NONE)  # nothing is more or less than nothing
    return dict(filters)


@contextmanager
def filter_errors() -> Iterator[None]:
    """What the server says of a wrong filter, as Haystack's error."""
    try:
        yield
    except InvalidValue as error:
        if (error.param or "").startswith("filter"):
            raise FilterError(error.message) from error
        raise
