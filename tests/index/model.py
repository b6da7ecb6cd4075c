"""What a collection promises, as a plain dict and the simplest code that could be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from grace_server.index.filters import is_date
from grace_server.index.vectors import Floats


@dataclass
class DictModel:
    """Documents by id: text, metadata, vector (None while it is not embedded)."""

    documents: dict[str, tuple[str, dict[str, Any], Floats | None]] = field(default_factory=dict)

    def upsert(self, batch: list[dict[str, Any]]) -> None:
        for document in batch:
            vector = document.get("vector")
            self.documents[document["id"]] = (
                document["text"],
                document.get("metadata") or {},
                None if vector is None else np.asarray(vector, np.float32),
            )

    def delete(self, ids: list[str]) -> int:
        return sum(self.documents.pop(one, None) is not None for one in ids)

    def delete_matching(self, condition: Mapping[str, Any]) -> int:
        return self.delete([i for i, (_, metadata, _) in self.documents.items() if matches(condition, metadata)])

    def nearest(self, query: Floats, k: int, condition: Mapping[str, Any] | None = None) -> list[tuple[str, float]]:
        """Cosines in float64, best first."""
        found = [
            (
                i,
                float(
                    query.astype(np.float64)
                    @ vector.astype(np.float64)
                    / np.linalg.norm(query)
                    / np.linalg.norm(vector)
                ),
            )
            for i, (_, metadata, vector) in self.documents.items()
            if vector is not None and (condition is None or matches(condition, metadata))
        ]
        return sorted(found, key=lambda hit: -hit[1])[:k]


def matches(condition: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """The filter grammar, evaluated the plain way."""
    operator = condition["operator"]
    if operator in ("AND", "OR", "NOT"):
        inner = [matches(c, metadata) for c in condition["conditions"]]
        return {"AND": all(inner), "OR": any(inner), "NOT": not all(inner)}[operator]
    value, there = _look_up(metadata, condition["field"]), condition["value"]
    tests: dict[str, Callable[[], bool]] = {
        "==": lambda: same(value, there),
        "!=": lambda: not same(value, there),
        "in": lambda: any(same(value, one) for one in there),
        "not in": lambda: not any(same(value, one) for one in there),
        "contains": lambda: isinstance(value, list) and any(same(one, there) for one in value),
        "exists": lambda: (value is not None) == there,
        ">": lambda: _compare(value, there, lambda a, b: a > b),
        ">=": lambda: _compare(value, there, lambda a, b: a >= b),
        "<": lambda: _compare(value, there, lambda a, b: a < b),
        "<=": lambda: _compare(value, there, lambda a, b: a <= b),
    }
    return tests[operator]()


def same(a: object, b: object) -> bool:
    """JSON equality: types count, but 1 equals 1.0; lists and objects equal nothing."""
    if isinstance(a, list | dict) or isinstance(b, list | dict):
        return False
    if isinstance(a, bool) or isinstance(b, bool) or isinstance(a, str) or isinstance(b, str):
        return type(a) is type(b) and a == b
    return a == b


def _look_up(metadata: Mapping[str, Any], field: str) -> Any:
    value: Any = metadata
    for key in field.removeprefix("meta.").split("."):
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value


def _compare(a: object, b: object, test: Callable[[Any, Any], bool]) -> bool:
    if isinstance(b, str):
        return isinstance(a, str) and is_date(a) and test(_instant(a), _instant(b))
    return isinstance(a, int | float) and not isinstance(a, bool) and test(a, b)


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
