"""The service on Ray, on this machine: one cluster for all tests, one ingress, two replicas of a paced engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server.app import create_app
from grace_server.index import reading
from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.store import looking_at
from grace_server.settings import Settings
from tests.index.invariants import check
from tests.support import replicas
from tests.support.models import make_model

pytest.importorskip("ray", reason="the extra `ray` is not installed")

PLACES = 4  # texts inside a replica at once


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("ray") / "tiny")


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    with replicas.cluster(cpus=2) as address:
        yield address


@pytest.fixture(scope="module")
def service(proxy: str, model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the service, when it takes requests."""
    from ray import serve

    from grace_server.replicas.application import application

    settings = chosen(model, tmp_path_factory.mktemp("data"))
    serve.run(application(settings, make_engine=replicas.paced), name="grace", route_prefix="/")
    deadline = time.monotonic() + replicas.PATIENCE_S
    while httpx.get(f"{proxy}/readyz").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return proxy


@pytest.fixture
async def client(service: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service, timeout=replicas.PATIENCE_S) as found:
        yield found


@pytest.fixture
async def plain(model: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The service without Ray, around the same engine."""
    checkpoint = Checkpoint.load(model)
    app = create_app(chosen(model, tmp_path), engine=FakeEngine(Prompter(checkpoint)), checkpoint=checkpoint)
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(30):
            while app.state.life.phase != "ready":  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://plain") as found:
            yield found


def chosen(model: Path, data: Path) -> Settings:
    return Settings(
        model=str(model),
        data_dir=data,
        engine="transformers",
        max_running_requests=PLACES,
        max_inputs=16,
        max_samples=4,
        cache=False,
        ray_min_replicas=2,
        ray_max_replicas=2,
        ray_cpus=0.25,
    )


async def test_the_routes_answer_as_those_of_the_plain_service(
    client: httpx.AsyncClient, plain: httpx.AsyncClient
) -> None:
    bodies: list[tuple[str, int, dict[str, Any]]] = [
        ("/embed", 200, {"input": ["The river rises.", "Who built it?"], "explain": True}),
        ("/embed", 200, {"input": "The river rises.", "mode": "direct", "pooling": "last"}),
        ("/v1/embeddings", 200, {"model": "tiny", "input": ["One.", "Two."], "encoding_format": "base64"}),
        ("/embed", 422, {"input": "x", "max_rationale_tokens": 10_000}),
        ("/explain", 200, {"first": "The river rises.", "second": "It meets the sea."}),
    ]
    for route, status, body in bodies:
        there, here = await client.post(route, json=body), await plain.post(route, json=body)
        assert (there.status_code, here.status_code) == (status, status), there.text
        assert there.json() == here.json()
    documents = [{"id": str(i), "text": f"Document {i}."} for i in range(5)]
    for each in (client, plain):
        assert (await each.put("/indexes/a", json={})).status_code in (200, 201)
        added = await each.post("/indexes/a/documents", json={"documents": documents, "wait": True})
        assert added.status_code == 200, added.text
    query = {"index": "a", "query": "Which document?", "k": 5, "explain": True}
    found = [(await each.post("/search", json=query)).json()["hits"] for each in (client, plain)]
    assert found[0] == found[1]
    assert len(found[0]) == 5


async def test_a_rationale_comes_in_pieces_and_then_the_same_vector(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/embed", json={"input": "A stream."})).json()["data"][0]
    events = [event async for event in stream(client, "A stream.")]
    deltas = "".join(data["delta"] for name, data in events if name == "rationale")
    assert deltas == whole["rationale"]["text"]
    assert [name for name, _ in events].count("rationale") > 1
    assert next(data for name, data in events if name == "embedding")["embedding"] == whole["embedding"]


async def test_a_response_has_one_request_id_and_it_is_the_callers(client: httpx.AsyncClient) -> None:
    reply = await client.get("/readyz", headers={"x-request-id": "abc-1"})
    assert reply.headers.get_list("x-request-id") == ["abc-1"]


async def test_whoever_leaves_does_not_take_the_answer_from_the_others(client: httpx.AsyncClient) -> None:
    body = {"input": "A text that two wait for."}
    first = asyncio.create_task(client.post("/embed", json=body))
    await asyncio.sleep(replicas.SECONDS / 5)
    second = asyncio.create_task(client.post("/embed", json=body))
    await asyncio.sleep(replicas.SECONDS / 5)
    first.cancel()
    assert (await second).status_code == 200


async def test_admission_lets_in_what_both_replicas_hold_and_no_more(client: httpx.AsyncClient) -> None:
    texts = asyncio.create_task(client.post("/embed", json={"input": [f"Place {n}." for n in range(4 * PLACES)]}))
    seen = set()
    while not texts.done():
        lines = (await client.get("/metrics")).text.splitlines()
        seen.add(next(float(line.split()[1]) for line in lines if line.startswith("grace_running_requests ")))
    assert max(seen) == 2 * PLACES
    assert (await texts).status_code == 200


async def test_a_replica_killed_in_mid_load_loses_nothing_and_traffic_goes_on(client: httpx.AsyncClient) -> None:
    killed, done = asyncio.Event(), 0

    async def ask(number: int, turn: asyncio.Semaphore) -> httpx.Response:
        nonlocal done
        async with turn:
            reply = await client.post("/embed", json={"input": f"Text {number} of the load."})
        done += 1
        if done == 2 * PLACES and not killed.is_set():
            killed.set()
            replicas.actors("ServeReplica:grace:engines")[0].kill()
        return reply

    turn = asyncio.Semaphore(2 * PLACES)  # so that every place is taken when it happens
    replies = await asyncio.gather(*(ask(number, turn) for number in range(8 * PLACES)))
    assert killed.is_set()
    assert [reply.status_code for reply in replies] == [200] * len(replies)
    vectors = np.array([reply.json()["data"][0]["embedding"] for reply in replies])
    again = await client.post("/embed", json={"input": [f"Text {n} of the load." for n in range(16)]})
    assert (np.array([item["embedding"] for item in again.json()["data"]]) == vectors[:16]).all()


async def test_a_stream_that_loses_its_replica_says_so_and_the_service_recovers(client: httpx.AsyncClient) -> None:
    await asyncio.to_thread(wait_for_both)
    processes = replicas.actors("ServeReplica:grace:engines")
    events = []
    async for event in stream(client, "A stream that is cut."):
        events.append(event)
        if len(events) == 1:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
    name, told = events[-1]
    assert (name, told["error"]["code"]) == ("error", "replica_lost")
    # No replica is there now; what is asked waits for the next one.
    assert (await client.post("/embed", json={"input": "Afterwards."})).status_code == 200


@pytest.mark.slow
@pytest.mark.skipif("GRACE_SLOW_TESTS" not in os.environ, reason="starts the command twice and three workers: a minute")
def test_a_corpus_is_embedded_once_whatever_dies(proxy: str, model: Path, tmp_path: Path) -> None:
    """First a worker is killed, then the command itself; the same command goes on."""
    import ray

    documents = 160
    source = tmp_path / "documents.jsonl"
    source.write_text(
        "".join(json.dumps({"id": str(i), "text": f"Document {i} is here."}) + "\n" for i in range(documents))
    )
    command = [
        sys.executable, "-m", "grace_server.index.cli", "--quiet", "--data-dir", str(tmp_path / "data"),
        "--model", str(model), "--engine", "transformers", "build", str(source), "--ray",
    ]  # fmt: skip
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "GRACE_RAY_CPUS": "0.25"}

    first = subprocess.Popen(command, env=environment)
    path = wait_for_ready(tmp_path / "data", 32, first)
    [worker] = replicas.actors("MapWorker")
    worker.kill()
    wait_for_ready(tmp_path / "data", 64, first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with looking_at(path) as connection:
        before = dict(connection.execute("SELECT id, seq FROM document WHERE state = 'ready'"))
    assert 64 <= len(before) < documents

    subprocess.run(command, env=environment, check=True, timeout=replicas.PATIENCE_S)
    with closing(Catalog(tmp_path / "data", Edges())) as catalog:
        collection = catalog.get("default")
        counts = collection.store.read(reading.counts)
        assert (counts.ready, counts.pending, counts.failed) == (documents, 0, 0)
        after = {d.id: d.seq for d in collection.page(limit=documents)}
        assert before.items() <= after.items()  # what was there was not made again
        assert len(set(after.values())) == documents
        check(collection)


def wait_for_both() -> None:
    """Until Serve has replaced what was killed."""
    from ray import serve

    deadline = time.monotonic() + replicas.PATIENCE_S
    while serve.status().applications["grace"].deployments["engines"].replica_states != {"RUNNING": 2}:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_ready(data: Path, number: int, process: subprocess.Popen[bytes]) -> Path:
    """Until so many documents have their vectors; the path of the database."""
    deadline = time.monotonic() + replicas.PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the command ended before it could be disturbed"
        for path in data.glob("indexes/*/documents.sqlite"):
            with suppress(Exception), looking_at(path) as connection:
                if reading.counts(connection).ready >= number:
                    return path
        time.sleep(0.02)
    raise AssertionError(f"fewer than {number} documents were embedded")


async def stream(client: httpx.AsyncClient, text: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    body = {"input": text, "stream": True}
    async with client.stream("POST", "/embed", json=body) as reply:
        name = ""
        async for line in reply.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)
