"""Whoever follows a job hears of its end at once."""

from __future__ import annotations

import asyncio

from grace.representation import Job, Representation
from grace_server.index.model import Represent
from tests.index.conftest import OpenService


async def test_progress_between_looking_and_waiting_is_not_missed(open_service: OpenService) -> None:
    async with open_service() as service:
        await service.http.put("/indexes/a")
        seen = service.indexes.moves
        body = {"documents": [{"id": "1", "text": "The river rises."}], "wait": True}
        await service.http.post("/indexes/a/documents", json=body)
        async with asyncio.timeout(5):
            await service.indexes.progress(since=seen, timeout_s=60)


async def test_without_progress_the_time_is_kept(open_service: OpenService) -> None:
    async with open_service() as service:
        async with asyncio.timeout(5):
            await service.indexes.progress(since=service.indexes.moves, timeout_s=0.05)


async def test_events_of_a_job_end_when_it_ends(open_service: OpenService) -> None:
    """Many short jobs: an end that is missed would cost a heartbeat of ten seconds."""
    async with open_service(seconds_per_text=0.01) as service:
        await service.http.put("/indexes/a")
        async with asyncio.timeout(8):
            for i in range(15):
                body = {"documents": [{"id": str(i), "text": f"Text {i}."}]}
                job = (await service.http.post("/indexes/a/documents", json=body)).json()["job"]["id"]
                assert "event: done" in (await service.http.get(f"/jobs/{job}/events")).text


async def test_a_document_does_not_wait_for_the_one_before_it(open_service: OpenService) -> None:
    begun, released = asyncio.Event(), asyncio.Event()

    def slow(represent: Represent) -> Represent:
        async def held(job: Job) -> Representation:
            if "first" in job.text:
                begun.set()
                await released.wait()
            return await represent(job)

        return held

    async with open_service(wrap=slow) as service, asyncio.timeout(10):
        await service.http.put("/indexes/a")
        body = {"documents": [{"id": "1", "text": "first"}]}
        first = (await service.http.post("/indexes/a/documents", json=body)).json()["job"]["id"]
        await begun.wait()
        body = {"documents": [{"id": "2", "text": "second"}], "wait": True}
        second = (await service.http.post("/indexes/a/documents", json=body)).json()["job"]
        assert second["done"] == 1
        assert (await service.http.get(f"/jobs/{first}")).json()["left"] == 1
        released.set()
        assert "event: done" in (await service.http.get(f"/jobs/{first}/events")).text
