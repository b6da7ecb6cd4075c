"""`/explain` promises exact arithmetic: every number of it is checked against brute force over the same sums."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace.attribution import contributions, gram, score_of, without_each
from grace.pooling import pooled_sources
from grace.prompt import Prompter
from grace_server import attribution_table
from grace_server.comparison import Compared
from tests.server.conftest import Serve, Service, until

FIRST = "Where does the river rise? And where does it end?"
SECOND = "The river rises in the hills. It meets the sea at a harbour. Ships come & go."


async def explain(service: Service, status: int = 200, **body: Any) -> dict[str, Any]:
    reply = await service.client.post("/explain", json={"first": FIRST, "second": SECOND, **body})
    assert reply.status_code == status, reply.text
    return dict(reply.json())


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


sides = st.builds(
    lambda seed, size, offset: np.random.default_rng(seed).standard_normal((size, 8)).astype(np.float32) + offset,
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 100.0]),  # a common direction of all states, as real models have
)


@given(a=sides, b=sides, dimensions=st.sampled_from([None, 1, 5]), seed=st.integers(0, 2**32 - 1))
def test_the_score_without_any_set_of_segments_is_that_of_the_rest(
    a: np.ndarray, b: np.ndarray, dimensions: int | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keep_a, keep_b = rng.random(len(a)) < 0.6, rng.random(len(b)) < 0.6
    found = score_of(
        contributions(a, b, dimensions=dimensions),
        gram(a, dimensions=dimensions),
        gram(b, dimensions=dimensions),
        keep_a=keep_a,
        keep_b=keep_b,
    )
    rest_a, rest_b = (
        side[keep].astype(np.float64).sum(axis=0)[:dimensions] for side, keep in ((a, keep_a), (b, keep_b))
    )
    if not keep_a.any() or not keep_b.any():
        assert found is None
    elif found is not None:
        assert found == pytest.approx(cosine(rest_a, rest_b), abs=1e-5)


@given(a=sides, b=sides, dimensions=st.sampled_from([None, 1, 5]))
def test_the_score_without_each_segment_is_that_of_the_others(
    a: np.ndarray, b: np.ndarray, dimensions: int | None
) -> None:
    found = without_each(a, b, dimensions=dimensions)
    assert len(found) == len(a)
    for i, score in enumerate(found):
        if len(a) == 1:
            assert score is None
        elif score is not None:
            rest = np.delete(a.astype(np.float64), i, axis=0).sum(axis=0)[:dimensions]
            assert score == pytest.approx(cosine(rest, b.astype(np.float64).sum(axis=0)[:dimensions]), abs=1e-5)


def test_what_cancels_out_has_no_score() -> None:
    a = np.array([[1.0, 2.0], [-1.0, -2.0], [3.0, 1.0]])
    assert without_each(a, a)[2] is None
    keep = np.array([True, True, False])
    assert score_of(contributions(a, a), gram(a), gram(a), keep_a=keep, keep_b=~keep) is None


@pytest.mark.parametrize("dimensions", [None, 7])
@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "mean"},
        {"pooling": "input"},
        {"pooling": "rationale"},
        {"pooling": "last"},
        {"mode": "direct"},
        {"n": 3, "temperature": 1.0},
        {"n": 3, "temperature": 1.0, "pooling": "rationale"},
        {"n": 3, "temperature": 1.0, "pooling": "last"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
async def test_the_table_adds_up_to_the_served_cosine(
    serve: Serve, options: dict[str, Any], dimensions: int | None
) -> None:
    service = await serve()
    options = options | {"dimensions": dimensions}
    reply = await explain(service, **options)
    vectors = [
        np.array((await service.embed(input=text, role=role, **options))["data"][0]["embedding"])
        for text, role in ((FIRST, "query"), (SECOND, "document"))
    ]
    assert reply["score"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    table = np.array(reply["table"])
    assert table.sum() == pytest.approx(reply["score"], abs=1e-5)
    for name, axis in (("first", 1), ("second", 0)):
        side = reply[name]
        assert table.shape[1 - axis] == len(side["segments"])
        np.testing.assert_allclose([s["contribution"] for s in side["segments"]], table.sum(axis=axis), atol=1e-12)
        assert sum(s["share"] for s in side["segments"]) == pytest.approx(1)
        assert np.sum(side["gram"]) == pytest.approx(1)
        assert sum(s["contribution"] for s in side["sources"]) == pytest.approx(reply["score"], abs=1e-5)
        assert sum(s["share"] for s in side["sources"]) == pytest.approx(1, abs=1e-4)
        assert {s["source"] for s in side["sources"]} == {s["source"] for s in side["segments"]}
    cells = [table[p["first"], p["second"]] for p in reply["pairs"]]
    assert cells == sorted(table.ravel(), reverse=True)[:10]
    assert [p["contribution"] for p in reply["pairs"]] == cells


@pytest.mark.parametrize("pooling", ["mean", "input", "rationale"])
async def test_without_a_segment_is_the_cosine_of_the_remaining_sums(
    serve: Serve, prompter: Prompter, pooling: Any
) -> None:
    service = await serve()
    reply = await explain(service, pooling=pooling)
    sums = []
    for text, role in ((FIRST, "query"), (SECOND, "document")):
        made = await service.engine.represent(prompter.job(text, role=role))  # type: ignore[arg-type]
        kept = [i for i, s in enumerate(made.segments) if s.source in pooled_sources(pooling)]
        sums.append(made.sums[kept].astype(np.float64))
    for name, own, other in (("first", sums[0], sums[1]), ("second", sums[1], sums[0])):
        for i, segment in enumerate(reply[name]["segments"]):
            if len(own) == 1:
                assert segment["without"] is None
                continue
            expected = cosine(np.delete(own, i, axis=0).sum(axis=0), other.sum(axis=0))
            assert segment["without"] == pytest.approx(expected, abs=1e-5)


async def test_segments_are_the_words_of_the_text_and_of_the_rationale(serve: Serve) -> None:
    service = await serve()
    text = "Der Fluß 😀 steigt. " + SECOND
    side = (await explain(service, second=text))["second"]
    given = {"input": text, "rationale": side["rationale"]["text"]}
    for segment in side["segments"]:
        if segment["source"] == "template":
            assert segment["text"] == ""
        else:
            assert segment["text"] == given[segment["source"]][segment["start"] : segment["end"]]
        assert segment["tokens"] >= 1
    assert "".join(s["text"] for s in side["segments"] if s["source"] == "input") == text
    assert len([s for s in side["segments"] if s["source"] == "input"]) == 4


async def test_a_text_is_a_string_or_an_object(serve: Serve) -> None:
    service = await serve()
    plain = await explain(service)
    assert (plain["first"]["role"], plain["second"]["role"]) == ("query", "document")
    spelled = await explain(service, first={"text": FIRST, "role": "query"}, second={"text": SECOND, "role": None})
    assert spelled["table"] == plain["table"]
    swapped = await explain(service, first={"text": FIRST, "role": "document"}, second={"text": FIRST})
    assert swapped["score"] == pytest.approx(1, abs=1e-6)
    given = await explain(service, first={"text": FIRST, "rationale": "It asks for a source. And for a mouth."})
    assert given["first"]["rationale"]["finish_reason"] == "given"
    assert [s["text"] for s in given["first"]["segments"] if s["source"] == "rationale"][-1] == " And for a mouth."


async def test_a_table_has_limits(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await serve()
    sides = [len((await explain(service))[name]["segments"]) for name in ("first", "second")]
    with monkeypatch.context() as patched:
        patched.setattr(attribution_table, "MAX_GRAM_SEGMENTS", min(sides))
        reply = await explain(service)
        assert [reply[name]["gram"] is None for name in ("first", "second")] == [n > min(sides) for n in sides]
    monkeypatch.setattr(attribution_table, "MAX_CELLS", sides[0] * sides[1] - 1)
    assert "cells" in (await explain(service, 413))["error"]["message"]


async def test_explaining_what_was_explained_asks_the_model_nothing(serve: Serve) -> None:
    service = await serve()
    await explain(service)
    calls = service.engine.calls
    again = await explain(service, pooling="input", dimensions=3)
    assert service.engine.calls == calls
    assert again["first"]["cached"]
    assert again["second"]["cached"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"first": 1}, "first"),
        ({"first": None}, "first"),
        ({"first": {"text": "x", "words": 1}}, "first.words"),
        ({"second": {"role": "query"}}, "second.text"),
        ({"second": {"text": "x", "role": "judge"}}, "second.role"),
        ({"centred": True}, "centred"),
        ({"normalize": False}, "normalize"),
        ({"dimensions": 10_000}, "dimensions"),
        ({"pooling": "rationale", "mode": "direct"}, "pooling"),
        ({"pooling": "input", "second": ""}, "second"),
        ({"n": 3, "temperature": 0.0}, "temperature"),
        ({"max_rationale_tokens": 10_000_000}, "max_rationale_tokens"),
        ({"top_pairs": -1}, "top_pairs"),
    ],
)
async def test_what_cannot_be_explained_is_refused_with_the_field(
    serve: Serve, body: dict[str, Any], param: str
) -> None:
    service = await serve()
    error = (await explain(service, 422, **body))["error"]
    assert error["param"] == param
    assert error["message"]


async def test_a_text_over_the_limit_is_named_by_its_side(serve: Serve) -> None:
    service = await serve(max_input_chars=200)
    assert (await explain(service, 413, second="x" * 201))["error"]["param"] == "second"
    assert (await explain(service, 413, first={"text": "x", "rationale": "x" * 201}))["error"]["param"] == (
        "first.rationale"
    )


async def test_a_hit_is_explained_from_stored_sums_as_its_two_texts_are(serve: Serve) -> None:
    service = await serve()
    documents = [{"id": "a", "text": SECOND}, {"id": "b", "text": "A guild of masons built it. It stands."}]
    await service.client.put("/indexes/papers")
    written = await service.client.post("/indexes/papers/documents", json={"documents": documents, "wait": True})
    assert written.status_code == 200, written.text
    found = await service.client.post("/search", json={"index": "papers", "query": FIRST, "explain": True})
    for hit in found.json()["hits"]:
        direct = await explain(service, second=hit["text"])
        for piece, segment in zip(
            hit["explanation"]["query"] + hit["explanation"]["document"],
            direct["first"]["segments"] + direct["second"]["segments"],
            strict=True,
        ):
            assert piece["text"] == segment["text"]
            assert piece["contribution"] == pytest.approx(segment["contribution"], abs=1e-5)
            assert piece["without"] == pytest.approx(segment["without"], abs=1e-5)


@pytest.mark.parametrize(("owner", "name"), [(Compared, "run"), (Prompter, "pieces")])
async def test_tokens_are_read_while_the_service_answers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    """A stored text is tokenised anew, and every token of a side gets its text: of long ones that takes a while."""
    service = await serve()
    work, begun, answered = getattr(owner, name), threading.Event(), threading.Event()

    def wait(*arguments: Any) -> Any:
        begun.set()
        assert answered.wait(5), "nothing was answered meanwhile"
        return work(*arguments)

    monkeypatch.setattr(owner, name, wait)
    explained = asyncio.create_task(explain(service, tokens=True))
    await until(lambda: begun.is_set() or explained.done())
    assert (await service.client.get("/livez")).status_code == 200
    answered.set()
    assert (await explained)["second"]["tokens"]
