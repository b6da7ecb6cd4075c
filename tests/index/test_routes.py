"""What the routes of search promise, over a fake engine."""

from __future__ import annotations

import asyncio
import json
import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grace.attribution import score_of
from grace.representation import Job, Representation
from grace_server.errors import Overloaded
from grace_server.index.cli import parser
from grace_server.index.fusion import RANK_CONSTANT
from grace_server.index.model import Represent
from tests.index.conftest import OpenService, Service
from tests.index.filled import refusing
from tests.index.invariants import check

TEXTS = {
    "river": "The river rises in the hills. It runs through three towns.",
    "bridge": "A guild of masons built the bridge. That was in 1432!",
    "harbour": "The river meets the sea at a harbour. Who built the harbour?",
}
DOCUMENTS = [{"id": i, "text": t, "metadata": {"n": n, "tags": [i]}} for n, (i, t) in enumerate(TEXTS.items())]


async def filled(service: Service, name: str = "a", **settings: Any) -> None:
    """An index with the three documents, embedded."""
    created = await service.http.put(f"/indexes/{name}", json={"settings": settings})
    assert created.status_code == 201, created.text
    written = await service.http.post(f"/indexes/{name}/documents", json={"documents": DOCUMENTS, "wait": True})
    assert written.status_code == 200, written.text
    assert written.json()["job"]["done"] == 3


async def search(service: Service, **body: Any) -> dict[str, Any]:
    answer = await service.http.post("/search", json={"index": "a", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_index_is_created_described_listed_and_deleted(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        assert (await service.http.put("/indexes/a")).status_code == 200
        assert (await service.http.put("/indexes/a", json={"settings": {"kind": "flat"}})).status_code == 409

        described = (await service.http.get("/indexes/a")).json()
        assert described["rows"] == 3
        assert described["fingerprint"] == service.prompter.checkpoint.fingerprint
        assert described["bytes"] > 0
        assert [i["name"] for i in (await service.http.get("/indexes")).json()["data"]] == ["a"]

        assert (await service.http.delete("/indexes/a")).json()["deleted"]
        assert (await service.http.get("/indexes/a")).status_code == 404


@pytest.mark.parametrize("method", ["dense", "lexical", "hybrid"])
async def test_a_document_is_found_by_its_own_text(open_service: OpenService, method: str) -> None:
    async with open_service() as service:
        await filled(service, query_mode="direct", document_mode="direct")
        answer = await search(service, query=TEXTS["bridge"], method=method, k=2)
        assert answer["hits"][0]["id"] == "bridge"
        assert answer["hits"][0]["metadata"] == {"n": 1, "tags": ["bridge"]}
        assert answer["exact"] is True
        assert set(answer["timing_ms"]) == {"embed", "search"}
        assert (answer["hits"][0]["dense"] is not None) == (method == "hybrid")


async def test_a_hybrid_score_is_the_sum_of_both_lists_shares_by_their_weights(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service, query_mode="direct", document_mode="direct")
        for weight in (0.0, 0.5, 3.0):
            answer = await search(service, query="the harbour", method="hybrid", dense_weight=weight)
            for hit in answer["hits"]:
                shares = [hit[part]["contribution"] for part in ("dense", "lexical") if hit[part]]
                assert hit["score"] == pytest.approx(sum(shares))
                assert hit["dense"]["contribution"] == pytest.approx(weight / (RANK_CONSTANT + hit["dense"]["rank"]))
        [best, *_] = (await search(service, query="the harbour", method="hybrid", dense_weight=0))["hits"]
        assert best["id"] == "harbour"
        refused = await service.http.post("/search", json={"index": "a", "query": "a", "dense_weight": -1})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "dense_weight")


async def test_rationales_of_query_and_hits_come_with_the_answer(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        answer = await search(service, query="Who built the bridge?")
        assert "Its mark is" in answer["query"]["rationale"]["understanding"]
        assert all(hit["rationale"]["text"] for hit in answer["hits"])
        by_rationale = await search(service, query="mark", method="lexical")
        assert len(by_rationale["hits"]) == 3


@pytest.mark.parametrize("settings", [{}, {"metric": "dot"}, {"dimensions": 32}, {"pooling": "input"}])
async def test_an_explanation_adds_up_to_the_score_also_after_a_restart(
    open_service: OpenService, settings: dict[str, Any]
) -> None:
    async with open_service() as service:
        await filled(service, **settings)
    async with open_service() as service:
        answer = await search(service, query="Who built the bridge? A guild did.", explain=True)
        assert service.engine.calls == 1
        for hit in answer["hits"]:
            explanation = hit["explanation"]
            total = np.sum(explanation["table"])
            assert total == pytest.approx(hit["score"], rel=1e-5, abs=1e-5)
            assert explanation["document"][0]["text"].strip() in TEXTS[hit["id"]]
            assert np.shape(explanation["table"]) == (len(explanation["query"]), len(explanation["document"]))


async def test_what_cannot_be_explained_says_why(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        vector = [1.0] + [0.0] * 63
        await service.http.post(
            "/indexes/a/documents", json={"documents": [{"id": "v", "text": "v", "vector": vector}]}
        )
        by_words = await search(service, query="river", method="lexical", explain=True)
        assert all("BM25" in hit["not_explained"] and not hit["explanation"] for hit in by_words["hits"])
        by_vector = await search(service, vector=vector, explain=True)
        assert "given as a vector" in by_vector["hits"][0]["not_explained"]
        hits = (await search(service, query="river", explain=True))["hits"]
        assert [hit["id"] for hit in hits if hit["not_explained"]] == ["v"]


@pytest.mark.parametrize("side", ["document_mode", "query_mode"])
async def test_settings_that_leave_nothing_to_pool_make_no_index(open_service: OpenService, side: str) -> None:
    async with open_service() as service:
        pair = {"pooling": "rationale", side: "direct"}
        refused = await service.http.put("/indexes/a", json={"settings": pair})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, f"settings.{side}")
        assert (await service.http.get("/indexes/a")).status_code == 404
    own = service.prompter.checkpoint
    mode = {"document": "reason", "query": "reason", side.removesuffix("_mode"): "direct"}
    checkpoint = replace(own, config=replace(own.config, pooling="rationale", mode=mode))
    async with open_service(checkpoint=checkpoint) as service:
        refused = await service.http.put("/indexes/a")
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, f"settings.{side}")
        assert (await service.http.put("/indexes/a", json={"settings": {side: "reason"}})).status_code == 201


async def test_a_query_whose_mode_leaves_nothing_to_pool_is_refused_naming_the_mode(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service, pooling="rationale")
        calls = service.engine.calls
        for path, body in (("/search", {"index": "a"}), ("/indexes/a/map/query", {"seq": 0})):
            if "seq" in body:
                body = {"seq": (await service.http.get("/indexes/a/map")).json()["seq"]}
            refused = await service.http.post(path, json={**body, "query": "river", "mode": "direct"})
            assert (refused.status_code, refused.json()["error"]["param"]) == (422, "mode")
        assert service.engine.calls == calls
        assert len((await search(service, query="river", mode="direct", method="lexical"))["hits"]) == 2


async def test_an_index_of_an_earlier_version_that_leaves_nothing_to_pool_is_opened_and_searched_by_saying_so(
    open_service: OpenService,
) -> None:
    async with open_service() as service:
        await filled(service, pooling="rationale")
        change = "UPDATE setting SET value = json_set(value, '$.query_mode', 'direct') WHERE key = 'settings'"
        service.indexes.catalog.get("a").store.write(lambda c: c.execute(change) and None)
    async with open_service() as service:
        refused = await service.http.post("/search", json={"index": "a", "query": "river"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "mode")
        assert (await search(service, query="river", mode="reason"))["hits"]


async def test_several_questions_pages_threshold_and_filter(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        both = await search(service, query=["river", "bridge"], k=1)
        assert [r["query"]["text"] for r in both["results"]] == ["river", "bridge"]

        everything = [hit["id"] for hit in (await search(service, query="river", k=3))["hits"]]
        pages = [(await search(service, query="river", k=1, offset=n))["hits"][0]["id"] for n in range(3)]
        assert pages == everything
        assert (await search(service, query="river", threshold=2.0))["hits"] == []

        condition = {"operator": "NOT", "conditions": [{"field": "meta.n", "operator": "in", "value": [0, 2]}]}
        assert [hit["id"] for hit in (await search(service, query="river", filter=condition))["hits"]] == ["bridge"]


async def test_a_foreign_models_questions_are_refused_with_what_to_do(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        own = service.prompter.checkpoint
    async with open_service(checkpoint=replace(own, fingerprint="f" * 32)) as service:
        refused = await service.http.post("/search", json={"index": "a", "query": "river"})
        assert refused.status_code == 409
        command = refused.json()["error"]["message"].partition("with: grace-index ")[2]
        told = parser().parse_args(shlex.split(command))
        assert (told.model, told.index, told.to) == (own.name, "a", "NEW_NAME")
        more = await service.http.post("/indexes/a/documents", json={"documents": DOCUMENTS})
        assert more.status_code == 409
        assert len((await search(service, query="river", method="lexical"))["hits"]) == 2


async def test_accepted_documents_survive_a_restart_and_are_embedded_then(open_service: OpenService) -> None:
    many = [{"id": f"d{i}", "text": f"Text number {i}."} for i in range(60)]
    async with open_service(seconds_per_text=0.2) as service:
        await service.http.put("/indexes/a")
        written = await service.http.post("/indexes/a/documents", json={"documents": many})
        assert written.status_code == 202
        job = written.json()["job"]["id"]
        async with asyncio.timeout(30):  # until some of them are embedded, and not all
            while (await service.http.get(f"/jobs/{job}")).json()["left"] == 60:  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.01)
    async with open_service() as service:
        assert 0 < (await service.http.get(f"/jobs/{job}")).json()["left"] < 60
        events = (await service.http.get(f"/jobs/{job}/events")).text
        assert events.count("event: done") == 1
        last = json.loads(events.rsplit("data: ", 1)[1])
        assert (last["state"], last["done"], last["failed"]) == ("done", 60, 0)
        assert service.engine.calls < 60
        check(service.indexes.catalog.get("a"))


async def test_a_document_that_cannot_be_embedded_is_listed_and_found_by_words(open_service: OpenService) -> None:
    async with open_service(wrap=refusing("bridge")) as service:
        await service.http.put("/indexes/a")
        job = (await service.http.post("/indexes/a/documents", json={"documents": DOCUMENTS, "wait": True})).json()[
            "job"
        ]
        assert (job["state"], job["done"], job["failed"], job["left"]) == ("done", 2, 1, 0)
        assert job["failures"] == [{"id": "bridge", "reason": "no bridge here"}]
        failed = (await service.http.get("/indexes/a/documents", params={"state": "failed"})).json()["data"]
        assert [(d["id"], d["reason"]) for d in failed] == [("bridge", "no bridge here")]
        assert (await search(service, query="bridge", method="lexical"))["hits"][0]["id"] == "bridge"
    async with open_service() as service:  # sent again, it is tried again
        again = await service.http.post("/indexes/a/documents", json={"documents": DOCUMENTS, "wait": True})
        assert (again.json()["unchanged"], again.json()["job"]["done"]) == (2, 3)
        check(service.indexes.catalog.get("a"))


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
async def test_a_vector_that_is_not_finite_is_a_reason_and_not_stored(
    open_service: OpenService, value: float, metric: str
) -> None:
    def broken(represent: Represent) -> Represent:
        async def sometimes(job: Job) -> Representation:
            representation = await represent(job)
            if "bridge" in job.text:
                representation.sums[:, 0] = value
            return representation

        return sometimes

    async with open_service(wrap=broken) as service:
        settings = {"kind": "hnsw", "flat_limit": 1, "metric": metric}
        await service.http.put("/indexes/a", json={"settings": settings})
        body = {"documents": DOCUMENTS, "wait": True}
        job = (await service.http.post("/indexes/a/documents", json=body)).json()["job"]
        assert (job["done"], job["failures"]) == (2, [{"id": "bridge", "reason": "the vector is not finite"}])
        collection = service.indexes.catalog.get("a")
        collection.maintain()
        assert (await service.http.get("/indexes/a")).json()["index_kind"] == "hnsw"
        check(collection)


async def test_a_full_engine_is_waited_for(open_service: OpenService) -> None:
    refusals = iter([True] * 5)

    def busy(represent: Represent) -> Represent:
        async def sometimes(job: Job) -> Representation:
            if next(refusals, False):
                raise Overloaded("full", retry_after=0)
            return await represent(job)

        return sometimes

    async with open_service(wrap=busy) as service:
        await filled(service)


async def test_a_cancelled_job_keeps_the_documents(open_service: OpenService) -> None:
    many = [{"id": f"d{i}", "text": f"Text number {i}."} for i in range(200)]
    async with open_service(seconds_per_text=0.3) as service:
        await service.http.put("/indexes/a")
        job = (await service.http.post("/indexes/a/documents", json={"documents": many})).json()["job"]["id"]
        cancelled = (await service.http.delete(f"/jobs/{job}")).json()
        assert cancelled["state"] == "cancelled"
        described = (await service.http.get("/indexes/a")).json()["documents"]
        assert described["cancelled"] + described["ready"] == 200
        check(service.indexes.catalog.get("a"))


async def test_sending_again_is_safe_and_metadata_alone_costs_no_embedding(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        calls = service.engine.calls
        again = await service.http.post("/indexes/a/documents", json={"documents": DOCUMENTS, "wait": True})
        assert again.json()["unchanged"] == 3
        changed = [{**d, "metadata": {"n": 10}} for d in DOCUMENTS]
        await service.http.post("/indexes/a/documents", json={"documents": changed, "wait": True})
        assert service.engine.calls == calls
        assert (await service.http.get("/indexes/a/documents/river")).json()["metadata"] == {"n": 10}


async def test_given_rationales_and_vectors_are_used(open_service: OpenService) -> None:
    async with open_service() as service:
        await service.http.put("/indexes/a")
        vector = np.eye(64)[3].tolist()
        documents = [
            {"id": "r", "text": "A text.", "rationale": "<think>My own.</think> Mine."},
            {"id": "v/1 ü", "text": "Another.", "vector": vector},
        ]
        await service.http.post("/indexes/a/documents", json={"documents": documents, "wait": True})
        stored = (await service.http.get("/indexes/a/documents/r")).json()
        assert (stored["rationale"]["understanding"], stored["rationale"]["finish_reason"]) == ("Mine.", "given")
        hit = (await search(service, vector=vector, k=1))["hits"][0]
        assert (hit["id"], hit["score"]) == ("v/1 ü", pytest.approx(1.0))
        assert (await service.http.get("/indexes/a/documents/v%2F1%20%C3%BC")).json()["given"] == "vector"


async def test_documents_are_listed_in_pages_and_deleted_by_id_and_by_filter(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        page = (await service.http.get("/indexes/a/documents", params={"limit": 2})).json()
        assert ([d["id"] for d in page["data"]], page["next"]) == (["bridge", "harbour"], "harbour")
        assert (await service.http.delete("/indexes/a/documents/bridge")).json()["deleted"] == 1
        assert (await service.http.delete("/indexes/a/documents/bridge")).json()["deleted"] == 0
        condition = {"field": "tags", "operator": "contains", "value": "river"}
        assert (await service.http.post("/indexes/a/delete", json={"filter": condition})).json()["deleted"] == 1
        assert (await service.http.post("/indexes/a/delete", json={"ids": ["harbour", "x"]})).json()["deleted"] == 1
        check(service.indexes.catalog.get("a"))


async def test_an_alias_is_switched_at_once_and_survives_a_restart(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        await service.http.put("/indexes/b")
        assert (await service.http.put("/aliases/live", json={"index": "b"})).json()["index"] == "b"
        assert (await service.http.put("/aliases/live", json={"index": "a"})).json()["index"] == "a"
        assert (await service.http.put("/aliases/b", json={"index": "a"})).status_code == 409
    async with open_service() as service:
        found = await service.http.post("/search", json={"index": "live", "query": "river", "method": "lexical"})
        assert len(found.json()["hits"]) == 2
        assert (await service.http.delete("/indexes/live")).status_code == 409


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"id": "", "text": "a"}, "documents[0].id"),
        ({"id": "a\0b", "text": "a"}, "documents[0].id"),
        ({"id": "x" * 513, "text": "a"}, "documents[0].id"),
        ({"id": "a"}, "documents[0].text"),
        ({"id": "a", "text": "a", "vector": [1.0]}, "documents[0].vector"),
        ({"id": "a", "text": "a", "vector": [0.0] * 64}, "documents[0].vector"),
        ({"id": "a", "text": "a", "vector": [1e300] * 64}, "documents[0].vector"),
        ({"id": "a", "text": "a", "metadata": {"a": 2**63}}, "documents[0].metadata"),
        ({"id": "a", "text": "a", "metadata": {"a": "\0"}}, "documents[0].metadata"),
        ({"id": "a", "text": "a", "surprise": 1}, "documents[0].surprise"),
        ({"id": "a", "text": "a", "vector": [1.0, "x"]}, "documents[0].vector[1]"),
    ],
)
async def test_a_wrong_document_is_refused_naming_the_field(
    open_service: OpenService, document: dict[str, Any], param: str
) -> None:
    async with open_service() as service:
        await service.http.put("/indexes/a")
        refused = await service.http.post("/indexes/a/documents", json={"documents": [document]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)
        assert (await service.http.get("/indexes/a")).json()["seq"] == 0


async def test_hostile_documents_are_refused_whole(open_service: OpenService) -> None:
    deep: Any = 1
    for _ in range(40):
        deep = {"a": deep}
    twice = [{"id": "a", "text": "a"}, {"id": "a", "text": "b"}]
    async with open_service() as service:
        await service.http.put("/indexes/a")
        for documents, status in (
            ([{"id": "a", "text": "a", "metadata": deep}], 422),
            ([{"id": "a", "text": "a", "metadata": {"a": "x" * 10_000_000}}], 413),
            (twice, 422),
            ([], 422),
        ):
            refused = await service.http.post("/indexes/a/documents", json={"documents": documents})
            assert refused.status_code == status
        for bad in ("NaN", "Infinity"):
            body = f'{{"documents": [{{"id": "a", "text": "a", "vector": [{", ".join([bad] * 64)}]}}]}}'
            refused = await service.http.post(
                "/indexes/a/documents", content=body, headers={"content-type": "application/json"}
            )
            assert refused.status_code == 422
        for name in ("..", "a/b", "-a", "a" * 65, "%2e%2e%2fetc", "new-a b"):
            assert (await service.http.put(f"/indexes/{name}")).status_code in (404, 405, 422)
        assert (await service.http.get("/indexes/a")).json()["seq"] == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": "a", "k": 0}, "k"),
        ({"vector": [1.0]}, "vector"),
        ({"vector": [1.0] * 64, "method": "lexical"}, "query"),
        ({"query": ["a", "b"], "vector": [1.0] * 64}, "vector"),
        ({"query": "a", "filter": {"operator": "=="}}, "filter.field"),
        ({"query": []}, "query"),
    ],
)
async def test_a_wrong_question_is_refused_naming_the_field(
    open_service: OpenService, body: dict[str, Any], param: str
) -> None:
    async with open_service() as service:
        await filled(service)
        refused = await service.http.post("/search", json={"index": "a", **body})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, param)


async def test_with_grams_the_score_without_any_set_of_sentences_needs_no_request(open_service: OpenService) -> None:
    async with open_service() as service:
        await filled(service)
        found = await search(service, query="Who built it? The guild did.", explain=True, grams=True)
        for hit in found["hits"]:
            told = hit["explanation"]
            table, asked, kept = (np.array(told[name]) for name in ("table", "query_gram", "document_gram"))
            assert asked.sum() == pytest.approx(1.0, abs=1e-5)
            everything = np.ones(len(asked), dtype=bool)
            for at, piece in enumerate(told["document"]):
                keep = np.arange(len(kept)) != at
                assert score_of(table, asked, kept, keep_a=everything, keep_b=keep) == pytest.approx(
                    piece["without"], abs=1e-5
                )
        plain = await search(service, query="Who built it?", explain=True)
        assert plain["hits"][0]["explanation"]["query_gram"] is None
