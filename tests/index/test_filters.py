"""Filters mean what the plain evaluator says, name the field that is wrong, and never become SQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.errors import InvalidValue
from grace_server.index.filters import compile_filter
from grace_server.index.settings import CollectionSettings
from tests.index.invariants import check, ids_of
from tests.index.model import matches

DATES = ["2020-01-01", "2020-01-01T10:00:00Z", "2020-01-01T12:00:00+02:00", "2020-01-01 09:59:59", "2021-12-31T23:59"]
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        [
            *DATES,
            "",
            "a",
            "A",
            "é",
            "1",
            "true",
            "null",
            "a'b",
            'a"b',
            "%",
            "2020-99-99",
            "2020-02-31",
            "x" * 200,
            "x" * 200 + "y",
        ]
    )
    | st.text(max_size=3).filter(lambda s: "\0" not in s and s.isprintable())
)
keys = st.sampled_from(["a", "b", "c d", "é", "a'; DROP TABLE document; --", "$", "[0]", "#-1"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
metadatas = st.lists(st.dictionaries(keys, values, max_size=4), min_size=1, max_size=8)
fields = st.lists(keys, min_size=1, max_size=2).map(lambda path: "meta." + ".".join(path))
ranges = st.integers(-3, 3) | st.floats(-4, 4) | st.sampled_from(DATES)
leaves = (
    st.builds(
        lambda f, o, v: {"field": f, "operator": o, "value": v},
        fields,
        st.sampled_from(["==", "!=", "contains"]),
        scalars,
    )
    | st.builds(
        lambda f, o, v: {"field": f, "operator": o, "value": v}, fields, st.sampled_from([">", ">=", "<", "<="]), ranges
    )
    | st.builds(
        lambda f, o, v: {"field": f, "operator": o, "value": v},
        fields,
        st.sampled_from(["in", "not in"]),
        st.lists(scalars, max_size=4),
    )
    | st.builds(lambda f, v: {"field": f, "operator": "exists", "value": v}, fields, st.booleans())
)
conditions = st.recursive(
    leaves,
    lambda inner: st.builds(
        lambda o, c: {"operator": o, "conditions": c},
        st.sampled_from(["AND", "OR", "NOT"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    catalog = Catalog(tmp_path_factory.mktemp("filters"), Edges())
    yield catalog.create("a", CollectionSettings(durability="NORMAL"), dimensions=2, fingerprint=None)
    catalog.close()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(metadatas=metadatas, condition=conditions)
def test_a_filter_lets_through_what_the_plain_evaluator_lets_through(
    collection: Collection, metadatas: list[dict[str, Any]], condition: dict[str, Any]
) -> None:
    collection.delete_matching(compile_filter({"field": "none", "operator": "exists", "value": False}))
    collection.upsert([{"id": str(i), "text": "", "metadata": m, "vector": [1, 0]} for i, m in enumerate(metadatas)])

    [found] = collection.dense(np.array([[1, 0]], np.float32), 100, compile_filter(condition))

    assert sorted(ids_of(collection, found)) == [str(i) for i, m in enumerate(metadatas) if matches(condition, m)]


@pytest.mark.parametrize(
    ("condition", "param"),
    [
        ([], "filter"),
        ({}, "filter.operator"),
        ({"operator": "LIKE", "field": "a", "value": "b"}, "filter.operator"),
        ({"operator": "==", "field": "a"}, "filter.value"),
        ({"operator": "==", "value": 1}, "filter.field"),
        ({"operator": "==", "field": "a", "value": 1, "boost": 2}, "filter.boost"),
        ({"operator": "==", "field": "", "value": 1}, "filter.field"),
        ({"operator": "==", "field": "a..b", "value": 1}, "filter.field"),
        ({"operator": "==", "field": 'a"', "value": 1}, "filter.field"),
        ({"operator": "==", "field": "a", "value": [1]}, "filter.value"),
        ({"operator": "==", "field": "a", "value": float("nan")}, "filter.value"),
        ({"operator": "==", "field": "a", "value": 2**63}, "filter.value"),
        ({"operator": ">", "field": "a", "value": "abc"}, "filter.value"),
        ({"operator": ">", "field": "a", "value": None}, "filter.value"),
        ({"operator": ">", "field": "a", "value": True}, "filter.value"),
        ({"operator": "in", "field": "a", "value": "abc"}, "filter.value"),
        ({"operator": "in", "field": "a", "value": [1, {}]}, "filter.value[1]"),
        ({"operator": "exists", "field": "a", "value": 1}, "filter.value"),
        ({"operator": "AND", "conditions": []}, "filter.conditions"),
        (
            {"operator": "AND", "conditions": [{"operator": "OR", "conditions": [{"operator": "<"}]}]},
            "filter.conditions[0].conditions[0].field",
        ),
    ],
)
def test_a_wrong_filter_is_refused_naming_the_place(condition: Any, param: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        compile_filter(condition)
    assert refused.value.param == param


def test_a_filter_nested_too_deep_or_too_long_is_refused() -> None:
    leaf = {"operator": "==", "field": "a", "value": 1}
    deep: dict[str, Any] = leaf
    for _ in range(50):
        deep = {"operator": "AND", "conditions": [deep]}
    for condition in (deep, {"operator": "AND", "conditions": [leaf] * 100}):
        with pytest.raises(InvalidValue):
            compile_filter(condition)


def test_nothing_of_a_filter_becomes_sql() -> None:
    tricks = ["x') OR 1=1 --", "'; DROP TABLE document; --", "$.a", "a') OR (1", "%"]
    for trick in tricks:
        clause = compile_filter({"operator": "in", "field": trick.replace(".", ""), "value": [trick]})
        assert trick not in clause.sql
        assert trick in clause.parameters


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "'",
        '" OR "',
        "a NEAR b",
        "text:a",
        "a*",
        "^a",
        "(",
        "NOT",
        "a AND",
        "-",
        "{a b}",
        "\0",
        "💥",
        "a" * 100_000,
        " ",
        "--;",
    ],
)
def test_no_query_is_a_syntax_error_of_fts5(collection: Collection, query: str) -> None:
    collection.upsert([{"id": "fts", "text": "a river NEAR the bridge", "vector": [1, 0]}])
    collection.lexical(query, 10)
    check(collection)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("river", ["begins", "ends", "near"]),
        ("riv*", []),  # no prefix
        ("^river", ["begins", "ends", "near"]),  # not at the beginning only
        ("text:river", ["begins", "ends", "near", "says text"]),  # no column
        ("text:riverbank", ["riverbank", "says text"]),
        ("{text} : river", ["begins", "ends", "near", "says text"]),
        ("old river", ["begins", "ends", "near", "riverbank"]),
        ("old AND river", ["begins", "ends", "near", "riverbank"]),
        ("old + river", ["begins", "ends", "near", "riverbank"]),  # no phrase
        ('"old river"', ["begins", "ends", "near", "riverbank"]),
        ("river NOT bridge", ["begins", "ends", "near", "negated"]),  # words of their own
        ("old NEAR mill", ["near", "riverbank"]),
        ("NEAR(river bridge, 1)", ["begins", "ends", "near"]),
    ],
)
def test_no_query_is_read_as_fts5_syntax(collection: Collection, query: str, found: list[str]) -> None:
    texts = {
        "begins": "river and hill",
        "ends": "hill and river",
        "near": "a river NEAR the bridge",
        "riverbank": "an old riverbank",
        "negated": "of all things not one",
        "says text": "this says text",
    }
    collection.delete_matching(compile_filter({"field": "none", "operator": "exists", "value": False}))
    collection.upsert([{"id": id, "text": text, "vector": [1, 0]} for id, text in texts.items()])
    assert sorted(ids_of(collection, collection.lexical(query, 10))) == found
