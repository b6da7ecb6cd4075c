"""A disk that is full, cannot be written, or has an owner already: the reason is told, and what was accepted stays."""

from __future__ import annotations

import asyncio
import errno
import signal
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import Child, Start, World, command
from tests.support.serving import started

FULL = Path("/dev/full")  # where every write says that there is no space


def documents(first: int, number: int) -> list[dict[str, str]]:
    return [{"id": f"d{first + i}", "text": f"River number {first + i} rises."} for i in range(number)]


async def is_cached(child: Child, text: str) -> bool:
    [item] = (await child.ask("POST", "/embed", 200, input=text))["data"]
    return bool(item["cached"])


async def test_cache_index_jobs_and_logs_on_a_disk_that_takes_nothing(start: Start, world: World) -> None:
    async with start(seconds=0.3, log=FULL, **world.variables) as child:
        await child.ask("PUT", "/indexes/a", 201, settings={"document_mode": "reason"})
        await child.ask("POST", "/indexes/a/documents", 200, documents=documents(0, 2), wait=True)
        accepted = await child.ask("POST", "/indexes/a/documents", 202, documents=documents(2, 6))
        job = f"/jobs/{accepted['job']['id']}"
        for error, code in ((errno.ENOSPC, "store_full"), (errno.EROFS, "store_unavailable")):
            world.becomes(error=error)

            # The cache is done without; the index refuses what it could not keep, and is searched as before.
            for _ in range(2):
                assert not await is_cached(child, f"A text on a disk with error {error}.")
            reply = await child.client.post("/indexes/a/documents", json={"documents": documents(90, 2)})
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, code)
            assert int(reply.headers["retry-after"]) > 0
            assert (await child.ask("POST", "/search", 200, index="a", query="river", method="lexical"))["hits"]
            assert (await child.client.put("/indexes/b", json={})).status_code == 503
            assert (await child.client.get("/readyz")).status_code == 200
            await asyncio.sleep(1)  # long enough for a document in work to meet the disk
            assert (await child.ask("GET", job, 200))["state"] == "running"

        # As soon as there is room the cache keeps again, what was accepted goes on by itself, nothing refused is there.
        world.becomes()
        for text in (f"A text on a disk with error {errno.ENOSPC}.", "A text on a disk in order."):
            assert not await is_cached(child, text)
            assert await is_cached(child, text)
        async with asyncio.timeout(40):
            while (await child.ask("GET", job, 200))["state"] != "done":  # noqa: ASYNC110 - over HTTP
                await asyncio.sleep(0.1)
        assert (await child.ask("GET", job, 200))["failed"] == 0
        await child.ask("GET", "/indexes/a/documents/d90", 404)
        assert (await child.ask("GET", "/indexes/a", 200))["documents"]["ready"] == 8
        child.send(signal.SIGTERM)
        assert await child.ended() == 0


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
async def test_a_full_disk_under_the_log_costs_lines_and_nothing_else(
    model_folder: Path, tmp_path: Path, engine: str
) -> None:
    """Of the command itself: it starts, with the bars that it draws meanwhile, answers, and ends with its code."""
    flags = [f"--model={model_folder}", f"--data-dir={tmp_path}", f"--engine={engine}"]
    with started(FULL, [*flags, "--port=0", "--kv-cache-gib=0.2"], out=tmp_path / "out") as service:
        async with httpx.AsyncClient(base_url=await service.is_ready(), timeout=60) as client:
            assert (await client.post("/embed", json={"input": "a text"})).status_code == 200
        service.send_signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_a_wrong_setting_has_its_code_where_nobody_can_be_told_of_it() -> None:
    async with command("--kv-cache-gib=none", out=FULL, log=FULL) as service, asyncio.timeout(60):
        assert await service.wait() == 2


async def test_a_data_folder_that_cannot_be_written_ends_the_start_with_its_reason(start: Start, world: World) -> None:
    world.becomes(error=errno.EROFS)
    async with start(**world.variables) as child:
        assert await child.ended() == 3
        logged = child.log.read_text()
    assert "cannot be the data folder: Read-only file system" in logged
    assert "Traceback" not in logged


async def test_a_cache_folder_that_cannot_be_written_costs_time_and_nothing_else(
    start: Start, world: World, tmp_path: Path
) -> None:
    world.becomes(error=errno.EROFS)
    under = {**world.variables, "WORLD_UNDER": str(tmp_path / "data" / "cache")}
    async with start(**under) as child:
        for _ in range(2):
            assert not (await child.ask("POST", "/embed", 200, input="a text"))["data"][0]["cached"]
        child.send(signal.SIGTERM)
        assert await child.ended() == 0
        logged = child.log.read_text()
    assert logged.count("the cache cannot be used; going on without it") == 1


async def test_the_second_server_on_a_data_folder_is_refused_with_the_reason(start: Start) -> None:
    async with start() as first:
        async with start() as second:
            assert await second.ended() == 3
            logged = second.log.read_text()
        assert f"is in use by process {first.pid}: one process writes an index at a time" in logged
        assert "Traceback" not in logged
        assert (await first.ask("POST", "/embed", 200, input="unharmed"))["data"]
        await first.ask("PUT", "/indexes/a", 201)
