"""Told to stop under load it finishes what it accepted; killed under load it has what it acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import signal

import httpx

from tests.faults.conftest import Child, Start
from tests.server.conftest import Serve


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


async def keep_writing(child: Child, acknowledged: dict[str, str]) -> None:
    """Upload batches until the connection breaks; remember which were acknowledged."""
    for batch in itertools.count():
        documents = [{"id": f"{batch}-{i}", "text": f"River {batch}-{i} rises in the hills."} for i in range(5)]
        try:
            reply = await child.client.post("/indexes/a/documents", json={"documents": documents})
        except httpx.TransportError:
            return
        if reply.status_code == 202:
            acknowledged.update({document["id"]: document["text"] for document in documents})


async def test_sigkill_under_load_loses_nothing_that_was_acknowledged(start: Start, serve: Serve) -> None:
    acknowledged: dict[str, str] = {}
    async with start(seconds=0.05) as child:
        await child.ask("PUT", "/indexes/a", 201)
        writers = [asyncio.create_task(keep_writing(child, acknowledged)) for _ in range(3)]
        readers = [asyncio.create_task(child.client.post("/embed", json={"input": f"text {i}"})) for i in range(20)]
        await asyncio.sleep(1.5)
        child.send(signal.SIGKILL)
        assert await child.ended() == -signal.SIGKILL
        await asyncio.gather(*writers)
        await asyncio.gather(*readers, return_exceptions=True)
    assert len(acknowledged) > 20

    service = await serve()  # on the same folder, and with a quicker engine
    async with asyncio.timeout(60):
        while (await service.client.get("/indexes/a")).json()["documents"]["pending"]:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.1)
    for id, text in acknowledged.items():
        found = (await service.client.get(f"/indexes/a/documents/{id}")).json()
        assert (found["text"], found["state"]) == (text, "ready")
    about = (await service.client.get("/indexes/a")).json()
    assert about["documents"]["failed"] == 0
    assert about["rows"] == about["documents"]["ready"] >= len(acknowledged)
