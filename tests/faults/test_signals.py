"""Told to stop under load it finishes what it accepted; killed under load it has what it acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import signal
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Child, Start
from tests.server.conftest import Serve
from tests.support.serving import started


async def test_sigterm_under_load_answers_what_was_accepted_and_refuses_what_comes(start: Start) -> None:
    async with start("--max-running-requests=2", seconds=0.3) as child:
        accepted = [asyncio.create_task(child.client.post("/embed", json={"input": f"text {i}"})) for i in range(12)]
        streamed = asyncio.create_task(child.client.post("/embed", json={"input": "streamed", "stream": True}))
        await asyncio.sleep(0.5)  # some are inside, the rest waits
        assert not all(task.done() for task in accepted)
        child.send(signal.SIGTERM)
        await asyncio.sleep(0.1)
        refused = await child.client.post("/embed", json={"input": "too late"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert [reply.status_code for reply in await asyncio.gather(*accepted)] == [200] * 12
        assert "event: done" in (await streamed).text
        assert await child.ended() == 0


async def test_what_is_not_finished_when_the_time_is_over_is_told_to_come_again(start: Start) -> None:
    async with start("--drain-timeout-s=1", "--max-running-requests=2", seconds=60) as child:
        running = [
            asyncio.create_task(child.client.post("/embed", json={"input": f"text {i}", "stream": i == 1}))
            for i in range(3)  # two are inside, the third waits
        ]
        await asyncio.sleep(0.5)
        begin = asyncio.get_running_loop().time()
        child.send(signal.SIGTERM)
        for reply in await asyncio.gather(*running):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "draining")
            assert reply.headers["retry-after"]
        assert 1 <= asyncio.get_running_loop().time() - begin < 15
        assert await child.ended() == 0
        logged = child.log.read_text()
    assert "some requests did not finish in time and are cut off" in logged
    assert "Traceback" not in logged


@pytest.mark.slow
async def test_sigterm_under_load_loses_nothing_that_vllm_or_an_index_accepted(
    model_folder: Path, tmp_path: Path, serve: Serve
) -> None:
    flags = [f"--model={model_folder}", f"--data-dir={tmp_path / 'data'}", "--max-running-requests=2"]
    flags += ["--port=0", "--kv-cache-gib=0.2", "--drain-timeout-s=120"]
    with started(tmp_path / "log", flags) as service:
        async with httpx.AsyncClient(base_url=await service.is_ready(), timeout=150) as client:
            settings = {"document_mode": "reason"}
            assert (await client.put("/indexes/a", json={"settings": settings})).status_code == 201
            accepted = [asyncio.create_task(client.post("/embed", json={"input": f"text {i}"})) for i in range(40)]
            async with asyncio.timeout(60):  # some are still on their way to the service
                while await taken(client) + sum(task.done() for task in accepted) < len(accepted):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            documents = [{"id": f"d{i}", "text": f"River {i} rises in the hills."} for i in range(200)]
            uploaded = await client.post("/indexes/a/documents", json={"documents": documents})
            assert uploaded.status_code == 202
            assert not all(task.done() for task in accepted)
            service.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            refused = await client.post("/embed", json={"input": "too late"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            replies = await asyncio.gather(*accepted)
            assert [reply.status_code for reply in replies] == [200] * len(accepted)
            assert all(len(reply.json()["data"]) == 1 for reply in replies)
        assert await service.ended() == 0

    restarted = await serve()
    job = f"/jobs/{uploaded.json()['job']['id']}"
    assert (await restarted.client.get(job)).json()["total"] == len(documents)
    async with asyncio.timeout(60):
        while (await restarted.client.get(job)).json()["state"] != "done":  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.1)
    assert (await restarted.client.get("/indexes/a")).json()["documents"]["ready"] == len(documents)


async def taken(client: httpx.AsyncClient) -> int:
    """Texts that the service has let in and not answered, before an index brings any."""
    gauges = dict(line.rsplit(" ", 1) for line in (await client.get("/metrics")).text.splitlines() if line[:1] != "#")
    return int(float(gauges["grace_running_requests"]) + float(gauges["grace_queued_requests"]))


async def keep_writing(child: Child, acknowledged: dict[str, str], jobs: set[str]) -> None:
    """Upload batches until the connection breaks; remember which were acknowledged, and under which jobs."""
    for batch in itertools.count():
        documents = [{"id": f"{batch}-{i}", "text": f"River {batch}-{i} rises in the hills."} for i in range(5)]
        try:
            reply = await child.client.post("/indexes/a/documents", json={"documents": documents})
        except httpx.TransportError:
            return
        if reply.status_code == 202:
            acknowledged.update({document["id"]: document["text"] for document in documents})
            jobs.add(reply.json()["job"]["id"])


async def test_sigkill_under_load_loses_nothing_that_was_acknowledged(start: Start, serve: Serve) -> None:
    acknowledged: dict[str, str] = {}
    jobs: set[str] = set()
    async with start(seconds=0.05) as child:
        await child.ask("PUT", "/indexes/a", 201)
        writers = [asyncio.create_task(keep_writing(child, acknowledged, jobs)) for _ in range(3)]
        readers = [asyncio.create_task(child.client.post("/embed", json={"input": f"text {i}"})) for i in range(20)]
        await asyncio.sleep(1.5)
        child.send(signal.SIGKILL)
        assert await child.ended() == -signal.SIGKILL
        await asyncio.gather(*writers)
        await asyncio.gather(*readers, return_exceptions=True)
    assert len(acknowledged) > 20

    service = await serve()  # on the same folder, and with a quicker engine
    for job in jobs:
        found = (await service.client.get(f"/jobs/{job}")).json()
        assert (found["total"], found["failed"]) == (5, 0)
    async with asyncio.timeout(60):
        while (await service.client.get("/indexes/a")).json()["documents"]["pending"]:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.1)
    for job in jobs:
        assert (await service.client.get(f"/jobs/{job}")).json()["state"] == "done"
    for id, text in acknowledged.items():
        found = (await service.client.get(f"/indexes/a/documents/{id}")).json()
        assert (found["text"], found["state"]) == (text, "ready")
    about = (await service.client.get("/indexes/a")).json()
    assert about["documents"]["failed"] == 0
    assert about["rows"] == about["documents"]["ready"] >= len(acknowledged)
