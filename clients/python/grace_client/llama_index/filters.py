"""LlamaIndex's filters in the server's grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

_SAME = {
    FilterOperator.EQ: "==",
    FilterOperator.NE: "!=",
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
    FilterOperator.IN: "in",
    FilterOperator.NIN: "not in",
    FilterOperator.CONTAINS: "contains",
}
_LOGIC = {FilterCondition.AND: "AND", FilterCondition.OR: "OR", FilterCondition.NOT: "NOT"}


def to_server(filters: MetadataFilters | None, **values: Sequence[str] | None) -> dict[str, Any] | None:
    """A filter, and metadata keys of which each must hold one of the given values; None lets everything through.

    Raises:
        NotImplementedError: an operator the server has no counterpart of.
    """
    conditions = [_group(filters)] if filters is not None and filters.filters else []
    conditions += [
        {"field": key, "operator": "in", "value": list(some)} for key, some in values.items() if some is not None
    ]
    return _joined("AND", conditions) if conditions else None


def _group(filters: MetadataFilters) -> dict[str, Any]:
    parts = [_group(one) if isinstance(one, MetadataFilters) else _comparison(one) for one in filters.filters]
    condition = _LOGIC[filters.condition or FilterCondition.AND]
    return {"operator": "NOT", "conditions": parts} if condition == "NOT" else _joined(condition, parts)


def _comparison(one: MetadataFilter) -> dict[str, Any]:
    if one.operator in _SAME:
        return {"field": one.key, "operator": _SAME[one.operator], "value": one.value}
    if one.operator in (FilterOperator.ANY, FilterOperator.ALL) and isinstance(one.value, list):
        if not one.value:  # nothing is one of none; everything has all of none
            return {"field": one.key, "operator": "in" if one.operator == FilterOperator.ANY else "not in", "value": []}
        each = [{"field": one.key, "operator": "contains", "value": value} for value in one.value]
        return _joined("OR" if one.operator == FilterOperator.ANY else "AND", each)
    raise NotImplementedError(f"GraceVectorStore has no filter operator {one.operator.value!r}")


def _joined(operator: str, conditions: list[dict[str, Any]]) -> dict[str, Any]:
    return conditions[0] if len(conditions) == 1 else {"operator": operator, "conditions": conditions}
