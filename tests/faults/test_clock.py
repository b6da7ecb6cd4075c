"""The wall clock jumps, by a day and back: nobody waits longer or shorter for it, and nothing is lost."""

from __future__ import annotations

import ast
import asyncio
import signal
import time
from pathlib import Path

import pytest

import grace
import grace_server
from tests.faults.conftest import Start, World

DAY = 86_400
# What the wall clock is good for: to say when something was. All of it is shown, and nothing waits for it.
TELLS_WHEN = {"edges.py", "description.py", "gauges.py", "signing.py"}


async def test_deadlines_queue_cache_and_jobs_do_not_mind(start: Start, world: World) -> None:
    flags = ("--max-running-requests=1", "--queue-timeout-s=1")
    async with start(*flags, seconds=0.4, **world.variables) as child:
        await child.ask("PUT", "/indexes/a", 201)
        await child.ask("POST", "/embed", 200, input="known")
        for ahead in (DAY, -DAY):
            texts = [{"id": f"{ahead} {i}", "text": f"River {ahead} {i}."} for i in range(2)]
            job = (await child.ask("POST", "/indexes/a/documents", 202, documents=texts))["job"]["id"]
            asked = [child.client.post("/embed", json={"input": f"{ahead} {i}"}) for i in range(6)]
            begin = time.monotonic()
            waiting = asyncio.gather(*asked)
            await asyncio.sleep(0.2)
            world.becomes(ahead_s=ahead)
            statuses = sorted(reply.status_code for reply in await waiting)
            # One at a time, 0.4 s each, and a second of patience: some come through, the last are sent away.
            assert set(statuses) == {200, 429}, statuses
            assert 1 <= time.monotonic() - begin < 10
            assert (await child.ask("POST", "/embed", 200, input="known"))["data"][0]["cached"]
            async with asyncio.timeout(30):
                while (await child.ask("GET", f"/jobs/{job}", 200))["state"] != "done":  # noqa: ASYNC110 - over HTTP
                    await asyncio.sleep(0.1)
            moved = child.client.build_request("GET", "/livez")
            date = (await child.client.send(moved)).headers["date"]
            assert time.strftime("%d %b", time.gmtime(time.time() + ahead)) in date, "the test needs the clock to jump"
        # Draining is not cut short by a jump either.
        last = asyncio.create_task(child.client.post("/embed", json={"input": "the last"}))
        await asyncio.sleep(0.3)
        child.send(signal.SIGTERM)
        world.becomes(ahead_s=DAY)
        assert (await last).status_code == 200
        assert await child.ended() == 0


@pytest.mark.parametrize("package", [grace, grace_server], ids=lambda package: package.__name__)
def test_nothing_is_measured_by_the_wall_clock(package: object) -> None:
    folder = Path(package.__path__[0])  # type: ignore[attr-defined]
    asks = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now")
    }
    assert asks <= TELLS_WHEN
