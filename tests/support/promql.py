"""Which series a PromQL expression asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser


@dataclass(frozen=True)
class Selector:
    """A metric, and the labels that are matched or summed by."""

    metric: str
    labels: frozenset[str]


def selectors(query: str) -> list[Selector]:
    """All selectors of a query, with Grafana's variables taken for what they stand for.

    Raises:
        ValueError: it is no PromQL.
    """
    text = query.replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
    return list(_walk(promql_parser.parse(text), frozenset()))


def _walk(node: Any, summed: frozenset[str]) -> Iterator[Selector]:
    match type(node).__name__:
        case "VectorSelector":
            matched = {matcher.name for matcher in node.matchers.matchers}
            yield Selector(node.name, frozenset(matched) | summed)
        case "MatrixSelector":
            yield from _walk(node.vector_selector, summed)
        case "AggregateExpr":
            labels = frozenset(node.modifier.labels) if node.modifier else frozenset()
            yield from _walk(node.expr, summed | labels)
        case "BinaryExpr":
            yield from _walk(node.lhs, summed)
            yield from _walk(node.rhs, summed)
        case "Call":
            for argument in node.args:
                yield from _walk(argument, summed)
        case "ParenExpr" | "UnaryExpr" | "SubqueryExpr":
            yield from _walk(node.expr, summed)
        case "NumberLiteral" | "StringLiteral":
            return
        case other:
            raise ValueError(f"{other} is not among what the tests can read")
