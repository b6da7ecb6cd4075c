"""Explanations from an index promise the served score and rank, from stored sums, without asking the model."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grace import sentences
from grace.attribution import by_token, centred, contributions, fitted, without_each
from grace.pooling import POOLINGS, unit
from grace.representation import Job, Representation
from grace_server.index.ranking import ahead
from tests.server.conftest import Serve, Service

TEXTS = {
    "river": "The river rises in the hills. It runs through three towns. Mills stood there once.",
    "bridge": "A guild of masons built the bridge. That was in 1432! The river is wide there.",
    "harbour": "The river meets the sea at a harbour. Who built the harbour?",
    "bread": "Bread needs flour, salt and time.",
    "empty": "",
}
QUERY = "Who built the bridge? A guild did. Was it masons?"


async def filled(service: Service, name: str = "papers", texts: dict[str, str] = TEXTS, **chosen: Any) -> None:
    assert (await service.client.put(f"/indexes/{name}", json={"settings": chosen})).status_code == 201
    documents = [{"id": i, "text": t} for i, t in texts.items()]
    written = await service.client.post(f"/indexes/{name}/documents", json={"documents": documents, "wait": True})
    assert written.json()["job"]["failed"] == 0, written.text


async def post(service: Service, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    reply = await service.client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return dict(reply.json())


async def hit(service: Service, document: str, status: int = 200, **body: Any) -> dict[str, Any]:
    return await post(service, "/explain", status, index="papers", first=QUERY, second={"id": document}, **body)


async def search(service: Service, **body: Any) -> dict[str, Any]:
    return await post(service, "/search", index="papers", query=QUERY, **body)


def check_side(side: dict[str, Any], added: np.ndarray, score: float) -> None:
    np.testing.assert_allclose([s["contribution"] for s in side["segments"]], added, atol=1e-9)
    assert sum(s["share"] for s in side["segments"]) == pytest.approx(1)
    assert sum(s["contribution"] for s in side["sources"]) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("sums", ["float32", "float16"])
@pytest.mark.parametrize("dimensions", [None, 11])
@pytest.mark.parametrize("pooling", POOLINGS)
async def test_a_hit_adds_up_to_its_score_under_every_pooling_after_a_restart(
    serve: Serve, pooling: str, dimensions: int | None, sums: str
) -> None:
    texts = {i: t for i, t in TEXTS.items() if t}
    await filled(await serve(), texts=texts, pooling=pooling, dimensions=dimensions, sums=sums)
    service = await serve()
    found = await search(service, explain=True, k=5)
    calls = service.engine.calls
    assert calls <= 1, "the model read the query, and no document"
    for place, one in enumerate(found["hits"], start=1):
        explanation = one["explanation"]
        table = np.array(explanation["table"])
        assert table.sum() == pytest.approx(one["score"], abs=1e-5)
        direct = await hit(service, one["id"])
        assert direct["score"] == pytest.approx(one["score"], abs=1e-6)
        assert direct["rank"] == explanation["rank"] == place
        assert direct["ranks_exact"]
        np.testing.assert_allclose(direct["table"], table, atol=1e-7)
        check_side(direct["first"], table.sum(axis=1), one["score"])
        check_side(direct["second"], table.sum(axis=0), one["score"])
        assert direct["second"]["id"] == one["id"]
    assert service.engine.calls == calls


words = st.sampled_from(["river", "harbour", "mason", "1432", "é😀", "a\n\nb", "bread.", "Why?", "!", " "])
texts_of = st.lists(words, min_size=1, max_size=30).map(" ".join)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(texts_of, min_size=2, max_size=4), query=texts_of, data=st.data())
async def test_tables_of_any_texts_add_up(serve: Serve, documents: list[str], query: str, data: st.DataObject) -> None:
    service = await serve()
    name = f"any-{abs(hash((tuple(documents), query))) % 10**12}"
    chosen = {
        "pooling": data.draw(st.sampled_from(["mean", "rationale", "last"])),
        "dimensions": data.draw(st.sampled_from([None, 3])),
        "sums": data.draw(st.sampled_from(["float32", "float16"])),
    }
    await service.client.delete(f"/indexes/{name}")
    await filled(service, name, {str(i): text for i, text in enumerate(documents)}, **chosen)
    found = await post(service, "/search", index=name, query=query, explain=True, centred=True)
    assert len(found["hits"]) == len(documents)
    for one in found["hits"]:
        assert np.sum(one["explanation"]["table"]) == pytest.approx(one["score"], abs=1e-5)
        view = one["explanation"]["centred"]
        assert np.sum(view["table"]) == pytest.approx(view["score"], abs=1e-9)


async def test_half_precision_sums_hold_states_of_any_size(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await serve(cache=False)
    represent = service.app.state.indexes.model.represent

    async def large(job: Job) -> Representation:
        made = await represent(job)
        return replace(made, sums=made.sums * 20_000, last=made.last * 20_000)

    changed = replace(service.app.state.indexes.model, represent=large)
    monkeypatch.setattr(service.app.state.indexes, "model", changed)
    await filled(service, sums="float16")
    hits = (await search(service, explain=True))["hits"]
    assert hits
    for one in hits:
        assert np.sum(one["explanation"]["table"]) == pytest.approx(one["score"], abs=1e-5)


async def test_ranks_without_a_sentence_are_those_of_a_search_without_it(serve: Serve) -> None:
    service = await serve()
    await filled(service)
    collection = service.app.state.indexes.catalog.get("papers")
    labels = [collection.get(i).label for i in TEXTS]
    vectors = dict(zip(TEXTS, collection.vectors(np.array(labels)).astype(np.float64), strict=True))
    moved = set()
    for document in TEXTS:
        direct = await hit(service, document)
        query = await post(service, "/embed", input=QUERY, role="query")
        asked = np.array(query["data"][0]["embedding"])
        scores = {i: float(v @ asked) for i, v in vectors.items()}
        for segment in direct["second"]["segments"]:
            if segment["without"] is not None:
                others = [s for i, s in scores.items() if i != document]
                assert segment["rank_without"] == 1 + sum(s > segment["without"] for s in others)
                moved.add(segment["rank_without"] - direct["rank"])
        for i, segment in enumerate(direct["first"]["segments"]):
            # Of the query's rows what is left is a vector that anyone may search with.
            rest = await post(
                service, "/explain", index="papers", first=QUERY, second={"id": document}, without={"first": [i]}
            )
            assert rest["without"]["score"] == pytest.approx(segment["without"], abs=1e-6)
            assert rest["without"]["rank"] == segment["rank_without"]
            moved.add(segment["rank_without"] - direct["rank"])
        change = direct["largest_change"]
        ranks = [
            (abs(s["rank_without"] - direct["rank"]), side, i)
            for side in ("first", "second")
            for i, s in enumerate(direct[side]["segments"])
            if s["rank_without"] is not None
        ]
        if change is None:
            assert max(ranks)[0] == 0
        else:
            assert abs(change["rank"] - direct["rank"]) == max(ranks)[0] > 0
            assert direct[change["side"]]["segments"][change["segment"]]["rank_without"] == change["rank"]
    assert len(moved) > 2, "the test needs removals that matter"


async def test_hits_of_a_search_know_their_ranks_among_each_other(serve: Serve) -> None:
    service = await serve()
    await filled(service)
    hits = (await search(service, explain=True, k=5))["hits"]
    assert len(hits) == len(TEXTS)
    for one in hits:
        # All documents are among the hits, so the ranks are those of the whole index.
        direct = await hit(service, one["id"])
        for side, name in (("query", "first"), ("document", "second")):
            told = [piece["rank_without"] for piece in one["explanation"][side]]
            assert told == [segment["rank_without"] for segment in direct[name]["segments"]]
        assert (one["explanation"]["largest_change"] is None) == (direct["largest_change"] is None)


async def test_equal_documents_keep_their_order_without_a_sentence(serve: Serve) -> None:
    service = await serve()
    await filled(service, texts=TEXTS | {f"copy {i}": TEXTS["bridge"] for i in range(3)})
    hits = (await search(service, explain=True, k=9))["hits"]
    assert len({one["score"] for one in hits}) == len(TEXTS)
    for one in hits:
        explanation, direct = one["explanation"], await hit(service, one["id"])
        for side, name in (("query", "first"), ("document", "second")):
            told = [piece["rank_without"] for piece in explanation[side]]
            assert told == [segment["rank_without"] for segment in direct[name]["segments"]], one["id"]
        change = explanation["largest_change"]
        assert (change and change["rank"]) == (direct["largest_change"] and direct["largest_change"]["rank"])
    for place in range(len(hits[0]["explanation"]["query"])):
        ranks = [one["explanation"]["query"][place]["rank_without"] for one in hits]
        assert sorted(ranks) == list(range(1, len(hits) + 1)), "no two share a rank"


def test_a_removal_that_changes_nothing_moves_nobody() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1, np.nan])
    for place, score in enumerate(scores[:5]):
        assert ahead(scores, place, score + 1e-8) == place
        assert ahead(scores, place, score - 1e-8) == place
    assert ahead(scores, 4, 0.7) == 1
    assert ahead(scores, 0, 0.3) == 3
    assert ahead(scores, len(scores), 0.5) == 4, "one that is not among them comes after its equals"


async def test_an_index_stays_readable_when_sentences_are_cut_otherwise_than_when_it_was_written(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The river rises। It is long؟ It meets the sea."
    with monkeypatch.context() as before:
        before.setattr(sentences, "_END", re.compile(r"[.!?]+(?=\s)"))
        await filled(await serve(), texts=TEXTS | {"old": text})
    service = await serve()
    found = (await search(service, explain=True, k=9))["hits"]
    [old] = [one for one in found if one["id"] == "old"]
    assert np.sum(old["explanation"]["table"]) == pytest.approx(old["score"], abs=1e-5)
    reply = await hit(service, "old", tokens=True)
    side = reply["second"]
    assert side["segments"][0]["text"] == text
    for place, segment in enumerate(side["segments"]):
        of_segment = [token for token in side["tokens"] if token["segment"] == place]
        assert len(of_segment) == segment["tokens"]
        assert sum(token["contribution"] for token in of_segment) == pytest.approx(segment["contribution"], abs=1e-4)
    assert len((await post(service, "/embed", input=text, explain=True))["data"][0]["segments"]) > len(side["segments"])


async def test_any_set_of_segments_can_be_left_out(serve: Serve) -> None:
    service = await serve()
    await filled(service)
    direct = await hit(service, "bridge", without={"first": [0], "second": [0, 1]})
    grams = [np.array(direct[side]["gram"]) for side in ("first", "second")]
    table = np.array(direct["table"])[1:, 2:]
    expected = table.sum() / np.sqrt(grams[0][1:, 1:].sum() * grams[1][2:, 2:].sum())
    assert direct["without"]["score"] == pytest.approx(expected, abs=1e-9)
    everything = {"second": list(range(len(direct["second"]["segments"])))}
    assert (await hit(service, "bridge", without=everything))["without"] == {"score": None, "rank": None}
    assert (await hit(service, "bridge", 422, without={"second": [99]}))["error"]["param"] == "without.second"


async def test_why_one_is_above_another_is_the_difference_of_their_tables(serve: Serve) -> None:
    service = await serve()
    await filled(service)
    upper, lower = (await search(service, k=2))["hits"]
    reply = await hit(service, upper["id"], against={"id": lower["id"]})
    against = reply["against"]
    assert against["gap"] == pytest.approx(upper["score"] - lower["score"], abs=1e-6)
    assert against["gap"] > 0
    assert np.sum(reply["table"]) - np.sum(against["table"]) == pytest.approx(against["gap"], abs=1e-5)
    assert sum(against["by_first"]) == pytest.approx(against["gap"], abs=1e-5)
    assert against["side"]["id"] == lower["id"]
    alone = await hit(service, lower["id"])
    np.testing.assert_allclose(against["table"], alone["table"])
    texts = await post(service, "/explain", first=QUERY, second=TEXTS["river"], against=TEXTS["bread"])
    assert sum(texts["against"]["by_first"]) == pytest.approx(texts["score"] - texts["against"]["score"], abs=1e-5)


async def test_two_documents_of_an_index_are_compared_without_a_model(serve: Serve) -> None:
    await filled(await serve())
    service = await serve()
    reply = await post(service, "/explain", index="papers", first={"id": "river"}, second={"id": "bridge"})
    assert service.engine.calls == 0
    assert np.sum(reply["table"]) == pytest.approx(reply["score"], abs=1e-5)
    assert reply["rank"] is None
    assert [reply[side]["role"] for side in ("first", "second")] == ["document", "document"]


async def test_the_centred_view_takes_off_the_mean_of_the_index(serve: Serve) -> None:
    service = await serve()
    await filled(service, dimensions=20)
    listed = (await search(service, k=5))["hits"]
    collection = service.app.state.indexes.catalog.get("papers")
    labels = {one["id"]: collection.get(one["id"]).label for one in listed}
    vectors = {i: collection.vectors(np.array([label]))[0].astype(np.float64) for i, label in labels.items()}
    mean = np.mean(list(vectors.values()), axis=0)
    query = await post(service, "/embed", input=QUERY, role="query", dimensions=20)
    asked = np.array(query["data"][0]["embedding"])
    found = await search(service, explain=True, centred=True, k=5)
    assert found["mean"]["documents"] == 5
    assert found["mean"]["length"] == pytest.approx(np.linalg.norm(mean), abs=1e-6)
    for one in found["hits"]:
        expected = float(unit(asked - mean) @ unit(vectors[one["id"]] - mean))
        view = (await hit(service, one["id"], centred=True))["centred"]
        assert view["score"] == pytest.approx(expected, abs=1e-5)
        assert np.sum(view["table"]) == pytest.approx(expected, abs=1e-5)
        assert sum(view["first"]) == pytest.approx(expected, abs=1e-5)
        assert sum(view["second"]) == pytest.approx(expected, abs=1e-5)
        assert one["explanation"]["centred"]["score"] == pytest.approx(expected, abs=1e-5)
    more = [{"id": f"more {i}", "text": f"Another text, number {i}."} for i in range(3)]
    await service.client.post("/indexes/papers/documents", json={"documents": more, "wait": True})
    assert (await search(service, explain=True, centred=True))["mean"]["documents"] == 8
    assert (await search(service, explain=True))["mean"] is None
    texts = await post(service, "/explain", index="papers", first=QUERY, second=TEXTS["river"], centred=True)
    assert texts["centred"]["mean"]["index"] == "papers"


async def test_a_hybrid_hit_has_both_parts_and_lexical_ones_say_why_not(serve: Serve) -> None:
    service = await serve()
    await filled(service)
    hybrid, lexical = [(await search(service, method=m, explain=True))["hits"] for m in ("hybrid", "lexical")]
    assert hybrid
    assert lexical
    for one in hybrid:
        parts = [one[name]["contribution"] for name in ("dense", "lexical") if one[name]]
        assert sum(parts) == pytest.approx(one["score"], abs=1e-6)
        assert one["explanation"]["score"] == one["dense"]["score"]
        assert np.sum(one["explanation"]["table"]) == pytest.approx(one["dense"]["score"], abs=1e-5)
        assert one["explanation"]["rank"] is None
    for one in lexical:
        assert one["explanation"] is None
        assert "BM25" in one["not_explained"]


async def test_a_quantised_index_is_exact_with_sums_and_refused_without(serve: Serve) -> None:
    service = await serve()
    many = {f"d{i}": f"Text {i} of the river. It is number {i * i}." for i in range(40)}
    await filled(service, texts=many, kind="ivf", quantization="sq8", flat_limit=10)
    service.app.state.indexes.catalog.get("papers").maintain("build")
    hits = (await search(service, explain=True))["hits"]
    assert hits
    for one in hits:
        assert np.sum(one["explanation"]["table"]) == pytest.approx(one["score"], abs=1e-5)
    await filled(service, "bare", sums="none")
    reply = await post(service, "/search", index="bare", query=QUERY, explain=True)
    assert reply["hits"]
    assert all("no sums" in one["not_explained"] for one in reply["hits"])
    refused = await post(service, "/explain", 422, index="bare", first=QUERY, second={"id": "river"})
    assert "no sums" in refused["error"]["message"]
    assert refused["error"]["param"] == "second.id"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"second": {"id": "nobody"}}, 404, "second.id"),
        ({"second": {"id": "river", "text": "x"}}, 422, "second.text"),
        ({"second": {}}, 422, "second.text"),
        ({"second": {"id": "river", "role": "document"}}, 422, "second.role"),
        ({"second": {"id": "river", "rationale": "x"}}, 422, "second.rationale"),
        ({"second": {"id": "river"}, "pooling": "input"}, 422, "pooling"),
        ({"second": {"id": "river"}, "dimensions": 3}, 422, "dimensions"),
        ({"second": {"id": "river"}, "n": 2}, 422, "n"),
        ({"second": {"id": "river"}, "index": None}, 422, "index"),
        ({"second": {"id": "river"}, "index": "nowhere"}, 404, "index"),
        ({"second": {"id": "river"}, "against": {"id": "nobody"}}, 404, "against.id"),
    ],
)
async def test_what_an_index_cannot_explain_is_refused_with_the_field(
    serve: Serve, body: dict[str, Any], status: int, param: str
) -> None:
    service = await serve()
    await filled(service, texts={"river": TEXTS["river"]})
    error = (await post(service, "/explain", status, **{"index": "papers", "first": QUERY, **body}))["error"]
    assert error["param"] == param
    assert error["message"]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dimensions", [None, 9])
async def test_tokens_add_up_to_their_segments_and_to_the_score(
    serve: Serve, pooling: str, dimensions: int | None
) -> None:
    service = await serve()
    options = {"pooling": pooling, "dimensions": dimensions}
    reply = await post(service, "/explain", first=QUERY, second=TEXTS["river"], tokens=True, **options)
    check_tokens(reply)
    texts = {i: t for i, t in TEXTS.items() if t}
    await filled(service, texts=texts, **options)
    check_tokens(await hit(service, "bridge", tokens=True))
    direct = await post(
        service, "/explain", first={"text": QUERY, "rationale": "It asks."}, second="A river.", tokens=True, **options
    )
    check_tokens(direct)
    if pooling == "mean":
        own = [t["text"] for t in direct["second"]["tokens"]]
        assert "".join(own).startswith("A river.")
        assert "".join(t["text"] for t in direct["first"]["tokens"]).endswith("It asks.")


def check_tokens(reply: dict[str, Any]) -> None:
    for name in ("first", "second"):
        side = reply[name]
        assert abs(side["tokens_residual"]) < 1e-5
        assert sum(t["contribution"] for t in side["tokens"]) == pytest.approx(reply["score"], abs=1e-5)
        for i, segment in enumerate(side["segments"]):
            mine = [t["contribution"] for t in side["tokens"] if t["segment"] == i]
            assert sum(mine) == pytest.approx(segment["contribution"], abs=1e-5)
            assert len(mine) == segment["tokens"]


async def test_tokens_of_a_rationale_that_is_read_otherwise_today_are_refused(serve: Serve) -> None:
    service = await serve()
    await filled(service)
    collection = service.app.state.indexes.catalog.get("papers")
    change = "UPDATE document SET rationale = 'Something else. ' || rationale WHERE id = 'river'"
    collection.store.write(lambda connection: connection.execute(change) and None)
    error = (await hit(service, "river", 422, tokens=True))["error"]
    assert error["param"] == "tokens"
    assert "as text" in error["message"]
    await hit(service, "bridge", tokens=True)


@pytest.mark.parametrize(("stored", "asked"), [("direct", "reason"), ("reason", "direct")])
async def test_tokens_of_a_document_are_of_the_mode_it_was_stored_in_not_of_the_querys(
    serve: Serve, stored: str, asked: str
) -> None:
    service = await serve()
    await filled(service, document_mode=stored)
    reply = await hit(service, "bridge", tokens=True, mode=asked)
    check_tokens(reply)
    sources = {side: {one["source"] for one in reply[side]["sources"]} for side in ("first", "second")}
    assert [len(sources["first"]) > 1, len(sources["second"]) > 1] == [asked == "reason", stored == "reason"]


async def test_tokens_of_another_models_documents_are_refused_and_their_sentences_are_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await serve()
    await filled(service)
    indexes = service.app.state.indexes
    other = replace(indexes.model, checkpoint=replace(indexes.model.checkpoint, fingerprint="f" * 32))
    monkeypatch.setattr(indexes, "model", other)
    sides = {"index": "papers", "first": {"id": "river"}, "second": {"id": "bridge"}}
    refused = await post(service, "/explain", 409, tokens=True, **sides)
    assert (refused["error"]["code"], refused["error"]["param"]) == ("fingerprint_mismatch", "index")
    assert (await post(service, "/explain", **sides))["table"]


async def test_a_mode_that_leaves_nothing_to_pool_is_refused_by_its_name(serve: Serve) -> None:
    service = await serve()
    await filled(service, texts={"river": TEXTS["river"]}, pooling="rationale")
    assert (await hit(service, "river", 422, mode="direct"))["error"]["param"] == "mode"
    given = {"text": QUERY, "rationale": "It asks."}  # which is pooled in any mode
    await post(service, "/explain", index="papers", first=given, second={"id": "river"}, mode="direct")


async def test_tokens_of_several_rationales_are_refused(serve: Serve) -> None:
    service = await serve()
    body = {"first": QUERY, "second": "A river.", "n": 2, "temperature": 1.0, "tokens": True}
    assert (await post(service, "/explain", 422, **body))["error"]["param"] == "tokens"


rows = st.builds(
    lambda seed, size, offset: np.random.default_rng(seed).standard_normal((size, 8)) + offset,
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 100.0]),
)


@given(a=rows, b=rows, dimensions=st.sampled_from([None, 1, 5]), seed=st.integers(0, 2**32 - 1))
def test_centred_rows_are_the_centred_vector(a: np.ndarray, b: np.ndarray, dimensions: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = []
    mean = rng.standard_normal(dimensions or 8) / 4
    for side in (a, b):
        weights = rng.random(len(side)) + 0.1
        weights /= weights.sum()
        got = centred(side, weights, mean, dimensions=dimensions)
        np.testing.assert_allclose(got.sum(axis=0), unit(side.sum(axis=0)[:dimensions]) - mean, atol=1e-9)
        sides.append(got)
    vectors = [unit(side.sum(axis=0)) for side in sides]
    assert contributions(*sides).sum() == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-9)
    assert len(without_each(*sides)) == len(a)


@given(a=rows, dimensions=st.sampled_from([None, 1, 5]))
def test_half_precision_rows_are_made_to_fit_the_vector(a: np.ndarray, dimensions: int | None) -> None:
    vector = unit(a.sum(axis=0)[:dimensions])
    rough = a.astype(np.float16).astype(np.float64)
    weights = np.full(len(a), 1 / len(a))
    got = fitted(rough, weights, vector)
    np.testing.assert_allclose(unit(got.sum(axis=0)), vector, atol=1e-6)
    limit = 2e-3 * np.abs(a).max()  # each row moves by no more than what rounding had taken in all
    assert np.abs(got - a[:, :dimensions]).max() <= limit * (len(a) + 1)


def test_a_side_without_length_has_no_contributions() -> None:
    nothing = np.zeros((2, 3))
    assert not centred(nothing, np.array([0.5, 0.5]), np.ones(3)).any()
    assert not fitted(nothing, np.array([0.5, 0.5]), np.zeros(3)).any()
    assert not by_token(np.ones(3), length=0.0, other=1.0).any()
    assert list(itertools.chain(*contributions(nothing, nothing))) == [0.0] * 4
