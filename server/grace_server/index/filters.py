"""Filters on metadata: a small JSON grammar, close to Haystack's, checked and then turned into SQL.

    {"field": "meta.year", "operator": ">=", "value": 1990}
    {"operator": "AND" | "OR" | "NOT", "conditions": [filter, ...]}       NOT means: not all of them

Operators: == != > >= < <= in "not in" contains exists. Fields are keys of the metadata, nested with dots, with or
without "meta." in front. Each comparison is a look-up of entries (`metadata.py`). Nothing of a filter ever becomes SQL
text: paths and values are bound parameters.

What a comparison means (each is true or false, never unknown; `!=`, `not in` are the negation of `==`, `in`):
  ==        same JSON type and value; 1 equals 1.0, true equals only true; null also matches a missing key
  < <= > >= numbers with numbers; ISO 8601 dates with dates, by instant (without a zone: UTC); anything else is false
  in        == to one of a list;  contains: the field is a list with an element == to the value
  exists    value true: there, and not null;  value false: the negation
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grace_server.index.errors import InvalidValue
from grace_server.index.metadata import (
    DATE,
    ELEMENT,
    LONGEST_TEXT,
    NUMBER,
    TEXT,
    Scalar,
    instant,
    path_of,
    scalar_entry,
)

MAX_DEPTH = 8
MAX_CONDITIONS = 64  # in all
MAX_VALUES = 10_000  # of all `in` together: each is a bound parameter, of which SQLite takes 32,766

_COMPARISONS = (">", ">=", "<", "<=")
_OPERATORS = ("==", "!=", *_COMPARISONS, "in", "not in", "contains", "exists")
_LOGIC = ("AND", "OR", "NOT")


@dataclass(frozen=True, slots=True)
class Select:
    """A SELECT of labels out of the entries of the metadata alone."""

    sql: str
    parameters: tuple[str | int | float, ...]


@dataclass(frozen=True, slots=True)
class Clause:
    """A filter as SQL over the table `document`: an expression that is 0 or 1, and its parameters.

    To ask it of each document costs as much as there are documents. `within` selects the documents it lets through,
    `without` those it does not; both are None where a document has to be looked at.
    """

    sql: str
    parameters: tuple[str | int | float, ...]
    within: Select | None = None
    without: Select | None = None  # at most one of the two is given


def compile_filter(value: object, *, param: str = "filter") -> Clause:
    """Check a filter and turn it into SQL.

    Raises:
        InvalidValue: `param` is the way to the fault, like `filter.conditions[1].value`.
    """
    return _Compiler().filter(value, param, MAX_DEPTH)


class _Compiler:
    def __init__(self) -> None:
        self._conditions = self._values = 0

    def filter(self, value: object, here: str, depth: int) -> Clause:
        if not isinstance(value, dict):
            raise InvalidValue(f"{here} must be an object with 'operator'", param=here)
        if depth == 0:
            raise InvalidValue(f"{here} is nested deeper than {MAX_DEPTH} levels", param=here)
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InvalidValue(f"{here}: a filter may hold at most {MAX_CONDITIONS} conditions", param=here)
        self._values += len(value["value"]) if isinstance(value.get("value"), list) else 0
        if self._values > MAX_VALUES:
            raise InvalidValue(f"{here}.value: a filter may hold at most {MAX_VALUES} values", param=f"{here}.value")
        operator = value.get("operator")
        expected = {"operator", "conditions"} if operator in _LOGIC else {"operator", "field", "value"}
        if not isinstance(operator, str) or operator not in (*_LOGIC, *_OPERATORS):
            known = ", ".join((*_LOGIC, *_OPERATORS))
            raise InvalidValue(f"{here}.operator must be one of: {known}", param=f"{here}.operator")
        for key in sorted(expected - set(value)):
            raise InvalidValue(f"{here}.{key} is missing", param=f"{here}.{key}")
        for key in sorted(str(k) for k in set(value) - expected):
            there = f"{here}.{key[:60]}"
            raise InvalidValue(f"{there} is not known beside operator {operator!r}", param=there)
        if operator in _LOGIC:
            return self._logic(operator, value["conditions"], f"{here}.conditions", depth)
        return _comparison(operator, value["field"], value["value"], here)

    def _logic(self, operator: str, conditions: object, here: str, depth: int) -> Clause:
        if not isinstance(conditions, list) or not conditions:
            raise InvalidValue(f"{here} must be a list that is not empty", param=here)
        parts = [self.filter(inner, f"{here}[{i}]", depth - 1) for i, inner in enumerate(conditions)]
        match operator:
            case "OR":
                return _any_of(parts)
            case "NOT":
                return _negated(_all_of(parts))
            case _:
                return _all_of(parts)


def _comparison(operator: str, field: object, value: object, here: str) -> Clause:
    path = _path(field, f"{here}.field")
    at = f"{here}.value"
    match operator:
        case "==":
            return _equals(path, _scalar(value, at))
        case "!=":
            return _negated(_equals(path, _scalar(value, at)))
        case "in" | "not in":
            clause = _is_in(path, value, at)
            return clause if operator == "in" else _negated(clause)
        case "contains":
            return _contains(path, _scalar(value, at))
        case "exists":
            if not isinstance(value, bool):
                raise InvalidValue(f"{at} must be true or false", param=at)
            return _exists(path) if value else _negated(_exists(path))
        case _:
            return _ordered(path, operator, value, at)


def _ordered(path: str, operator: str, value: object, at: str) -> Clause:
    if isinstance(value, str):
        if (moment := instant(value)) is None:
            raise InvalidValue(f"{at}: {operator} takes a number or an ISO 8601 date, not another text", param=at)
        return _found(f"kind = {DATE} AND value {operator} ?", path, moment)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{at}: {operator} takes a number or an ISO 8601 date", param=at)
    number = _scalar(value, at)
    assert isinstance(number, int | float)  # what else a scalar may be was refused above
    return _found(f"kind = {NUMBER} AND value {operator} ?", path, number)


def _equals(path: str, value: Scalar) -> Clause:
    if value is None:
        return _negated(_exists(path))
    kind, kept = scalar_entry(value)
    clause = _found(f"kind = {kind} AND value = ?", path, kept)
    if not _is_long(value):
        return clause
    return _also(clause, "json_extract(document.metadata, ?) = ?", path, value)


def _is_in(path: str, value: object, at: str) -> Clause:
    if not isinstance(value, list):
        raise InvalidValue(f"{at} must be a list", param=at)
    values = [_scalar(one, f"{at}[{i}]") for i, one in enumerate(value)]
    plain = [scalar_entry(one) for one in values if one is not None and not _is_long(one)]
    parts = [_equals(path, None)] if None in values else []
    if long := list(dict.fromkeys(one for one in values if _is_long(one))):
        # One part for all of them: SQLite takes an expression of 1,000 parts at most.
        heads = json.dumps([scalar_entry(one)[1] for one in long])
        clause = _found(f"kind = {TEXT} AND value IN (SELECT value FROM json_each(?))", path, heads)
        wholly = "json_extract(document.metadata, ?) IN (SELECT value FROM json_each(?))"
        parts.append(_also(clause, wholly, path, json.dumps(long)))
    for kind in sorted({kind for kind, _ in plain}):
        kept = list(dict.fromkeys(one for its, one in plain if its == kind))
        parts.append(_found(f"kind = {kind} AND value IN ({', '.join('?' * len(kept))})", path, *kept))
    if not parts:
        return Clause("(0)", (), within=Select("SELECT label FROM field WHERE 0", ()))
    return _any_of(parts)


def _contains(path: str, value: Scalar) -> Clause:
    kind, kept = scalar_entry(value)
    clause = _found(f"kind = {ELEMENT + kind} AND value = ?", path, kept)
    if not _is_long(value):
        return clause
    element = "EXISTS (SELECT 1 FROM json_each(document.metadata, ?) AS element WHERE element.value = ?)"
    return _also(clause, element, path, value)


def _exists(path: str) -> Clause:
    return _found(f"kind < {ELEMENT}", path)


def _found(condition: str, path: str, *parameters: str | int | float) -> Clause:
    """Documents with an entry at a path. The condition is our own text; what a caller gave is in the parameters."""
    entries = Select(f"SELECT label FROM field WHERE path = ? AND {condition}", (path, *parameters))
    return Clause(f"(document.label IN ({entries.sql}))", entries.parameters, within=entries)


def _all_of(parts: Sequence[Clause]) -> Clause:
    """All of some clauses, of which there is at least one."""
    within, without = _selects_all(parts)
    return Clause(f"({' AND '.join(p.sql for p in parts)})", _parameters(parts), within, without)


def _any_of(parts: Sequence[Clause]) -> Clause:
    """Any of some clauses, of which there is at least one: what not all of their negations let through."""
    without, within = _selects_all([_negated(part) for part in parts])
    return Clause(f"({' OR '.join(p.sql for p in parts)})", _parameters(parts), within, without)


def _selects_all(parts: Sequence[Clause]) -> tuple[Select | None, Select | None]:
    """`within` and `without` of all of some clauses."""
    within = [part.within for part in parts if part.within is not None]
    without = [part.without for part in parts if part.without is not None]
    if len(within) + len(without) < len(parts):
        return None, None
    outside = _compound("UNION", without) if without else None
    if not within:
        return None, outside
    inside = _compound("INTERSECT", within)
    return (inside if outside is None else _compound("EXCEPT", [inside, outside])), None


def _compound(operator: str, selects: Sequence[Select]) -> Select:
    if len(selects) == 1:
        return selects[0]
    sql = f" {operator} ".join(f"SELECT label FROM ({one.sql})" for one in selects)
    return Select(sql, _parameters(selects))


def _parameters(parts: Sequence[Clause] | Sequence[Select]) -> tuple[str | int | float, ...]:
    return tuple(parameter for part in parts for parameter in part.parameters)


def _also(clause: Clause, sql: str, path: str, value: Scalar) -> Clause:
    """A second look at a text too long for its entry to hold it whole."""
    assert isinstance(value, str)
    return Clause(f"({clause.sql} AND {sql})", (*clause.parameters, path, value))


def _is_long(value: Scalar) -> bool:
    return isinstance(value, str) and len(value) >= LONGEST_TEXT


def _negated(clause: Clause) -> Clause:
    return Clause(f"(NOT {clause.sql})", clause.parameters, within=clause.without, without=clause.within)


def _path(field: object, at: str) -> str:
    """SQLite's JSON path of a field. Its keys are quoted; what its quoting cannot hold is refused."""
    if not isinstance(field, str) or not field:
        raise InvalidValue(f"{at} must be the name of a metadata key, like 'meta.year'", param=at)
    keys = field.removeprefix("meta.").split(".")
    if not all(keys) or len(keys) > 16 or len(field) > 512:
        raise InvalidValue(f"{at}: {field[:60]!r} is not a metadata key, nested with single dots", param=at)
    if any(c in '"\\' or ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in field):
        raise InvalidValue(f"{at} may not hold quotes, backslashes or control characters", param=at)
    return path_of(keys)


def _scalar(value: object, at: str) -> Scalar:
    if isinstance(value, str):
        if "\0" in value or any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise InvalidValue(f"{at} may not hold U+0000 or lone surrogates", param=at)
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise InvalidValue(f"{at} must be a text, a finite number of 64 bits, true, false or null", param=at)


def is_date(text: str) -> bool:
    """Whether a text is an ISO 8601 date, with or without time and zone, that names a real day."""
    return instant(text) is not None


def matching(clause: Clause) -> tuple[str, tuple[Any, ...]]:
    """SQL and parameters that select the labels of searchable documents that a filter lets through, asking each."""
    # This index alone answers it; by the table itself SQLite would read the pages that hold the texts.
    return (
        f"SELECT label FROM document INDEXED BY document_state WHERE state = 'ready' AND {clause.sql}",
        clause.parameters,
    )
