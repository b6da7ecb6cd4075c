"""Indexes, documents, jobs and search, through both clients, against the real application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from grace_client import (
    AsyncGraceClient,
    Conflict,
    Document,
    GraceClient,
    GraceError,
    InvalidValue,
    Job,
    NotFound,
    Progress,
    Retries,
    TimedOut,
    results,
)
from grace_client.upload import Uploaded, check
from tests.clients.python.both import Both
from tests.clients.python.conftest import Client
from tests.clients.python.house import House

RIVER = Document("1", "The river rises in the hills.", {"year": 1990, "tags": ["water"]})
BRIDGE = Document("2", "A guild of masons built the bridge.", {"year": 1432})


async def test_an_index_from_its_creation_to_its_end(client: Both) -> None:
    made = await client("indexes.create", "papers", {"dimensions": 16})
    assert (made.name, made.dimensions, made.rows) == ("papers", 16, 0)
    assert (await client("indexes.create", "papers", {"dimensions": 16})).created_at == made.created_at
    with pytest.raises(Conflict):
        await client("indexes.create", "papers", {"dimensions": 8})
    assert (await client("indexes.set_alias", "live", "papers")).index == "papers"
    assert (await client("indexes.get", "live")).aliases == ["live"]
    await client("indexes.remove_alias", "live")
    assert [index.name for index in await client("indexes.list")] == ["papers"]
    await client("indexes.delete", "papers")
    with pytest.raises(NotFound) as caught:
        await client("indexes.get", "papers")
    assert caught.value.code == "index_not_found"


async def test_documents_are_written_found_explained_and_deleted(client: Both) -> None:
    await client("indexes.create", "papers")
    written = await client("documents.upsert", "papers", [RIVER, {"id": "2", "text": BRIDGE.text}])
    assert (written.documents, written.job.state, written.job.done) == (2, "done", 2)

    found = await client("search", "The river rises in the hills.", index="papers", explain=True)
    hit = next(hit for hit in found.hits if hit.id == "1")
    assert hit.metadata == RIVER.metadata
    assert hit.rationale.text
    assert sum(map(sum, hit.explanation.table)) == pytest.approx(hit.score, abs=1e-5)
    assert found.exact

    assert (await client("documents.get", "papers", "2")).text == BRIDGE.text
    assert await client("documents.delete", "papers", "1") == 1
    assert await client("documents.delete", "papers", ["1", "2", "3"]) == 1
    with pytest.raises(NotFound) as caught:
        await client("documents.get", "papers", "2")
    assert caught.value.code == "document_not_found"
    with pytest.raises(ValueError, match="either ids or filter"):
        await client("documents.delete", "papers")


async def test_searches_by_words_by_vector_by_filter_and_several_at_once(client: Both) -> None:
    await client("indexes.create", "papers")
    await client("documents.upsert", "papers", [RIVER, BRIDGE])
    words = await client("search", "masons", index="papers", method="lexical")
    assert [hit.id for hit in words.hits] == ["2"]
    vector = await client("encode_query", "The river rises in the hills.")
    near = await client(
        "search", vector=vector, index="papers", filter={"field": "year", "operator": "<", "value": 1500}
    )
    assert [hit.id for hit in near.hits] == ["2"]
    assert near.query.text is None
    each = await client("search_each", ["river", "bridge"], index="papers", method="hybrid", k=2)
    assert [found.query.text for found in each] == ["river", "bridge"]
    by_vectors = await client("search_each", vectors=[vector, vector.tolist()], index="papers", k=1)
    assert by_vectors[0].hits[0].id == by_vectors[1].hits[0].id
    with pytest.raises(InvalidValue) as caught:
        await client("search", "x", index="papers", filter={"operator": "AND", "conditions": []})
    assert caught.value.param == "filter.conditions"


async def test_documents_are_listed_over_all_pages(client: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_sync", "_async"):
        monkeypatch.setattr(f"grace_client.{module}.documents._PAGE", 10)
    await client("indexes.create", "papers", {"dimensions": 2})
    await client(
        "documents.upsert", "papers", [Document(f"{i:03}", vector=[1, i], metadata={"i": i}) for i in range(25)]
    )
    assert [one.id for one in await client("documents.list", "papers")] == [f"{i:03}" for i in range(25)]
    some = await client("documents.list", "papers", filter={"field": "i", "operator": ">=", "value": 22}, state="ready")
    assert [one.metadata["i"] for one in some] == [22, 23, 24]
    assert list(await client("documents.get_each", "papers", ["024", "none", "003"])) == ["024", "003"]


@pytest.mark.parametrize("id", ["a/b", "..", ".", "ü?#%2F", "a b&c", "x/../y", "%2e%2e"])
async def test_ids_are_names_whatever_they_hold(client: Both, id: str) -> None:
    await client("indexes.create", "papers", {"dimensions": 2})
    await client("documents.upsert", "papers", [Document(id, vector=[1, 2]), Document("other", vector=[1, 2])])
    assert (await client("documents.get", "papers", id)).id == id
    assert await client("documents.delete", "papers", id) == 1
    assert [one.id for one in await client("documents.list", "papers")] == ["other"]


async def test_an_empty_name_never_stands_for_everything(client: Both) -> None:
    with pytest.raises(ValueError, match="may not be empty"):
        await client("indexes.delete", "")
    with pytest.raises(ValueError, match="may not be empty"):
        await client("documents.get", "papers", "")


async def test_an_upload_of_any_length_reports_how_far_it_is(client: Both) -> None:
    await client("indexes.create", "papers")
    documents = [Document(str(i), f"Text {i}.") for i in range(50)]
    told: list[Progress] = []
    report = await client("documents.upload", "papers", documents, batch_size=8, progress=told.append)
    assert (report.written, report.unchanged, report.failed, len(report.jobs)) == (50, 0, 0, 7)
    assert [p.written for p in told] == sorted(p.written for p in told)
    assert (told[-1].written, told[-1].total) == (50, 50)
    assert (await client("indexes.get", "papers")).documents.ready == 50
    again = await client("documents.upload", "papers", iter(documents), progress=told.append)
    assert (again.written, again.unchanged) == (50, 50)
    assert told[-1].total is None
    assert (await client("documents.upload", "papers", [])).written == 0


def test_what_a_stopped_job_leaves_is_told_and_is_an_error_where_nobody_reads_reports() -> None:
    job = {
        "id": "j",
        "total": 9,
        "done": 4,
        "failed": 1,
        "superseded": 1,
        "left": 3,
        "rate": None,
        "seconds_left": None,
    }
    job |= {"created_at": 1.0, "finished_at": 2.0, "failures": []}
    stopped, done, running = (
        results.Written.model_validate({"documents": 9, "unchanged": 0, "job": {**job, "state": state}})
        for state in ("cancelled", "done", "running")
    )
    told = Progress(None).after(done).after(stopped).after(running)
    assert (told.written, told.failed, told.cancelled) == (27, 3, 3)
    with pytest.raises(GraceError, match="the embedding of 3 of 27 documents was cancelled"):
        check(Uploaded(27, 0, 3, (), (), cancelled=3))


async def test_a_source_is_read_no_faster_than_the_server_takes_it(client: Both) -> None:
    await client("indexes.create", "papers", {"dimensions": 2})
    taken = 0

    def source() -> Iterator[Document]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield Document(str(i), vector=[1, i])

    ahead: list[int] = []
    await client(
        "documents.upload",
        "papers",
        source(),
        batch_size=5,
        at_once=2,
        progress=lambda p: ahead.append(taken - p.written),
    )
    assert max(ahead) <= 2 * 5


async def test_a_large_document_makes_a_batch_of_its_own(
    client: Both, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grace_client.upload.MAX_BATCH_BYTES", 1000)
    await client("indexes.create", "papers", {"dimensions": 2})
    documents = [Document(str(i), "x" * (2000 if i == 3 else 300), vector=[1, i]) for i in range(6)]
    report = await client("documents.upload", "papers", documents)
    assert report.written == 6
    bodies = [r for r in house.requests if r.url.path.endswith("/documents")]
    assert sorted(len(r.content) > 1100 for r in bodies) == [False] * (len(bodies) - 1) + [True]


async def test_an_asynchronous_source_does_for_the_asynchronous_client(house: House) -> None:
    async def source() -> AsyncIterator[Document]:
        for i in range(10):
            yield Document(str(i), vector=[1, i])

    async with AsyncGraceClient("http://grace", transport=house.async_transport) as client:
        await client.indexes.create("papers", {"dimensions": 2})
        assert (await client.documents.upload("papers", source(), batch_size=3)).written == 10


async def test_one_bad_batch_ends_an_upload_with_its_error(client: Both) -> None:
    await client("indexes.create", "papers", {"dimensions": 2})
    documents = [Document(str(i), vector=[1, 2] if i != 7 else [1, 2, 3]) for i in range(20)]
    with pytest.raises(InvalidValue) as caught:
        await client("documents.upload", "papers", documents, batch_size=5)
    assert caught.value.param == "documents[2].vector"


async def test_a_job_is_followed_to_its_end_and_can_be_cancelled(
    client_of: Client, house_with: Callable[..., House]
) -> None:
    client = client_of(house_with(seconds=0.3, cache=False, max_running_requests=1))
    await client("indexes.create", "papers")
    written = await client("documents.upsert", "papers", [Document(str(i), f"Text {i}.") for i in range(4)], wait=False)
    assert written.job.finished_at is None
    with pytest.raises(TimedOut, match="goes on"):
        await client("jobs.wait", written.job.id, timeout_s=0.2)
    told: list[Job] = []
    job = await client("jobs.wait", written.job.id, progress=told.append)
    assert (job.state, job.done, job.left) == ("done", 4, 0)
    assert told[-1] == job
    assert (await client("jobs.events", job.id))[-1].finished_at == job.finished_at
    more = await client("documents.upsert", "papers", [Document(str(i), f"More {i}.") for i in range(9)], wait=False)
    assert (await client("jobs.cancel", more.job.id)).state == "cancelled"
    with pytest.raises(NotFound) as caught:
        await client("jobs.wait", "no-such-job")
    assert caught.value.code == "job_not_found"


class Silent(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A job that does not move: one event, then signs of life and nothing else."""

    def __init__(self, job: Job) -> None:
        self._event = f"event: progress\ndata: {job.model_dump_json()}\n\n".encode()

    def __iter__(self) -> Iterator[bytes]:
        yield self._event
        for _ in range(50):
            time.sleep(0.2)
            yield b": alive\n\n"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._event
        for _ in range(50):
            await asyncio.sleep(0.2)
            yield b": alive\n\n"


async def test_a_job_that_does_not_move_is_waited_for_no_longer_than_was_said(client_of: Client) -> None:
    job = Job.model_validate(
        {
            "id": "j",
            "state": "running",
            "total": 1,
            "done": 0,
            "failed": 0,
            "superseded": 0,
            "left": 1,
            "rate": None,
            "seconds_left": None,
            "created_at": 1.0,
            "finished_at": None,
            "failures": [],
        }
    )
    kind = {"content-type": "text/event-stream"}
    client = client_of(lambda _: httpx.Response(200, headers=kind, stream=Silent(job)))
    began = time.monotonic()
    with pytest.raises(TimedOut, match="job j is not finished yet; it goes on"):
        await client("jobs.wait", "j", timeout_s=0.5)
    assert time.monotonic() - began < 2.0


async def test_a_server_that_asks_for_patience_does_not_prolong_the_wait_for_a_job(client_of: Client) -> None:
    refused = {"retry-after": "3"}
    client = client_of(lambda _: httpx.Response(503, headers=refused, json={}), retries=Retries(attempts=3))
    began = time.monotonic()
    with pytest.raises(TimedOut):
        await client("jobs.wait", "j", timeout_s=0.5)
    assert time.monotonic() - began < 2.0


async def test_where_events_do_not_get_through_a_job_is_asked_for(client_of: Client, house: House) -> None:
    """A proxy that cuts streams off: the wait goes on by asking."""
    with GraceClient("http://grace", transport=house.transport) as direct:
        direct.indexes.create("papers")
        job = direct.documents.upsert("papers", [RIVER]).job

    asked: list[str] = []

    def proxy(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path.endswith("/events"):
            running = job.model_copy(update={"state": "running", "finished_at": None}).model_dump_json()
            return httpx.Response(
                200, headers={"content-type": "text/event-stream"}, content=f"event: progress\ndata: {running}\n\n"
            )
        return httpx.Response(200, content=job.model_dump_json())

    found: Any = await client_of(proxy)("jobs.wait", job.id)
    assert found == job
    assert asked == [f"/jobs/{job.id}/events", f"/jobs/{job.id}"]
