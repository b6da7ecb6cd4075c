"""Filters on metadata: a small JSON grammar, close to Haystack's, checked and then turned into SQL.

    {"field": "meta.year", "operator": ">=", "value": 1990}
    {"operator": "AND" | "OR" | "NOT", "conditions": [filter, ...]}       NOT means: not all of them

Operators: == != > >= < <= in "not in" contains exists. Fields are keys of the metadata, nested with dots, with or
without "meta." in front. Nothing of a filter ever becomes SQL text: paths and values are bound parameters.

What a comparison means (each is true or false, never unknown; `!=`, `not in` are the negation of `==`, `in`):
  ==        same JSON type and value; 1 equals 1.0, true equals only true; null also matches a missing key
  < <= > >= numbers with numbers; ISO 8601 dates with dates, by instant (without a zone: UTC); anything else is false
  in        == to one of a list;  contains: the field is a list with an element == to the value
  exists    value true: there, and not null;  value false: the negation
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from grace_server.index.errors import InvalidValue

MAX_DEPTH = 8
MAX_CONDITIONS = 64  # in all
MAX_VALUES = 10_000  # of one `in`

Scalar = str | int | float | bool | None
_COMPARISONS = (">", ">=", "<", "<=")
_OPERATORS = ("==", "!=", *_COMPARISONS, "in", "not in", "contains", "exists")
_LOGIC = ("AND", "OR", "NOT")
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)


@dataclass(frozen=True, slots=True)
class Clause:
    """A filter as SQL over the table `document`: an expression that is 0 or 1, and its parameters."""

    sql: str
    parameters: tuple[str | int | float, ...]


def compile_filter(value: object, *, param: str = "filter") -> Clause:
    """Check a filter and turn it into SQL.

    Raises:
        InvalidValue: `param` is the way to the fault, like `filter.conditions[1].value`.
    """
    return _Compiler().filter(value, param, MAX_DEPTH)


class _Compiler:
    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, value: object, here: str, depth: int) -> Clause:
        if not isinstance(value, dict):
            raise InvalidValue(f"{here} must be an object with 'operator'", param=here)
        if depth == 0:
            raise InvalidValue(f"{here} is nested deeper than {MAX_DEPTH} levels", param=here)
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InvalidValue(f"{here}: a filter may hold at most {MAX_CONDITIONS} conditions", param=here)
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
        joined = f" {'OR' if operator == 'OR' else 'AND'} ".join(part.sql for part in parts)
        parameters = tuple(p for part in parts for p in part.parameters)
        return Clause(f"(NOT ({joined}))" if operator == "NOT" else f"({joined})", parameters)


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
            clause = _element_is(_scalar(value, at))
            return Clause(
                f"(EXISTS (SELECT 1 FROM json_each(document.metadata, ?) AS element WHERE "
                f"json_type(document.metadata, ?) = 'array' AND {clause.sql}))",
                (path, path, *clause.parameters),
            )
        case "exists":
            if not isinstance(value, bool):
                raise InvalidValue(f"{at} must be true or false", param=at)
            there = Clause("(coalesce(json_type(document.metadata, ?), 'null') <> 'null')", (path,))
            return there if value else _negated(there)
        case _:
            return _ordered(path, operator, value, at)


def _ordered(path: str, operator: str, value: object, at: str) -> Clause:
    if isinstance(value, str):
        if not is_date(value):
            raise InvalidValue(f"{at}: {operator} takes a number or an ISO 8601 date, not another text", param=at)
        # GLOB first: julianday() also reads "now" and bare numbers, which are no dates in metadata.
        return Clause(
            "(coalesce(json_type(document.metadata, ?) = 'text' AND json_extract(document.metadata, ?) GLOB ? AND "
            f"julianday(json_extract(document.metadata, ?)) {operator} julianday(?), 0))",
            (path, path, "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*", path, value),
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{at}: {operator} takes a number or an ISO 8601 date", param=at)
    return Clause(
        "(coalesce(json_type(document.metadata, ?) IN ('integer', 'real') AND "
        f"json_extract(document.metadata, ?) {operator} json_extract(?, '$'), 0))",
        (path, path, json.dumps(_scalar(value, at))),
    )


def _equals(path: str, value: Scalar) -> Clause:
    match value:
        case None:
            return Clause("(coalesce(json_type(document.metadata, ?), 'null') = 'null')", (path,))
        case bool():
            return Clause("(coalesce(json_type(document.metadata, ?) = ?, 0))", (path, "true" if value else "false"))
        case str():
            return Clause(
                "(coalesce(json_type(document.metadata, ?) = 'text' AND json_extract(document.metadata, ?) = ?, 0))",
                (path, path, value),
            )
        case _:
            # Through JSON on both sides: SQLite reads the two spellings of a number with the same code.
            return Clause(
                "(coalesce(json_type(document.metadata, ?) IN ('integer', 'real') AND "
                "json_extract(document.metadata, ?) = json_extract(?, '$'), 0))",
                (path, path, json.dumps(value)),
            )


def _is_in(path: str, value: object, at: str) -> Clause:
    if not isinstance(value, list):
        raise InvalidValue(f"{at} must be a list", param=at)
    if len(value) > MAX_VALUES:
        raise InvalidValue(f"{at} may hold at most {MAX_VALUES} values", param=at)
    values = [_scalar(one, f"{at}[{i}]") for i, one in enumerate(value)]
    texts = [one for one in values if isinstance(one, str)]
    numbers = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    parts = [_equals(path, one) for one in {str(v): v for v in values if v is None or isinstance(v, bool)}.values()]
    for types, some in (("'text'", texts), ("'integer', 'real'", numbers)):
        if some:
            parts.append(
                Clause(
                    f"(coalesce(json_type(document.metadata, ?) IN ({types}) AND "
                    "json_extract(document.metadata, ?) IN (SELECT value FROM json_each(?)), 0))",
                    (path, path, json.dumps(some, ensure_ascii=False)),
                )
            )
    if not parts:
        return Clause("(0)", ())
    return Clause(f"({' OR '.join(p.sql for p in parts)})", tuple(x for p in parts for x in p.parameters))


def _element_is(value: Scalar) -> Clause:
    """The element of a list, as `json_each` gives it, equals a value."""
    match value:
        case None:
            return Clause("element.type = 'null'", ())
        case bool():
            return Clause("element.type = ?", ("true" if value else "false",))
        case str():
            return Clause("element.type = 'text' AND element.value = ?", (value,))
        case _:
            return Clause(
                "element.type IN ('integer', 'real') AND element.value = json_extract(?, '$')", (json.dumps(value),)
            )


def _negated(clause: Clause) -> Clause:
    return Clause(f"(NOT {clause.sql})", clause.parameters)


def _path(field: object, at: str) -> str:
    """SQLite's JSON path of a field. Its keys are quoted; what its quoting cannot hold is refused."""
    if not isinstance(field, str) or not field:
        raise InvalidValue(f"{at} must be the name of a metadata key, like 'meta.year'", param=at)
    keys = field.removeprefix("meta.").split(".")
    if not all(keys) or len(keys) > 16 or len(field) > 512:
        raise InvalidValue(f"{at}: {field[:60]!r} is not a metadata key, nested with single dots", param=at)
    if any(c in '"\\' or ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in field):
        raise InvalidValue(f"{at} may not hold quotes, backslashes or control characters", param=at)
    return "$" + "".join(f'."{key}"' for key in keys)


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
    if not _ISO.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def matching(clause: Clause) -> tuple[str, tuple[Any, ...]]:
    """SQL and parameters that select the labels of searchable documents that a filter lets through."""
    return f"SELECT label FROM document WHERE state = 'ready' AND {clause.sql}", clause.parameters
