"""What was computed once is not computed again; what the cache does wrong costs time, never an answer."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import sqlite3
import statistics
import time
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
import pytest

from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server import records
from tests.server.conftest import Serve, Service, until

SECRET = "Zanzibar quartet marmalade. Obsidian pelican!"


def everything_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


async def test_the_second_time_comes_from_the_cache(serve: Serve) -> None:
    service = await serve()
    first, second = [await service.embed(input="a text", explain=True) for _ in range(2)]
    assert [reply["data"][0].pop("cached") for reply in (first, second)] == [False, True]
    assert first == second
    assert service.engine.calls == 1
    assert service.metric("grace_cache_lookups_total", result="hit") == 1
    assert service.metric("grace_cache_lookups_total", result="miss") == 1


async def test_every_pooling_comes_from_one_entry(serve: Serve) -> None:
    service = await serve()
    for pooling in ("mean", "rationale", "input", "last"):
        await service.embed(input="a text", pooling=pooling)
        await service.embed(input="a text", pooling=pooling, dimensions=8, encoding_format="base64")
    assert service.engine.calls == 1


async def test_it_survives_a_restart(serve: Serve) -> None:
    before = await (await serve()).embed(input="a text")
    service = await serve()
    after = await service.embed(input="a text")
    assert after["data"][0]["cached"]
    assert service.engine.calls == 0
    assert after["data"][0]["embedding"] == before["data"][0]["embedding"]


async def test_an_entry_from_before_sentences_were_cut_otherwise_is_not_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(records, "FORMAT", 1)  # rationales knew fewer marks, which no key tells
        await (await serve()).embed(input="a text")
    after = await (await serve()).embed(input="a text")
    assert not after["data"][0]["cached"]


async def test_whatever_changes_the_result_is_another_entry(serve: Serve) -> None:
    service = await serve()
    asked: list[dict[str, Any]] = [
        {},
        {"role": "query"},
        {"mode": "direct"},
        {"max_rationale_tokens": 5},
        {"temperature": 0.5},
        {"temperature": 0.6},
        {"rationale": "given"},
        {"rationale": "given otherwise"},
    ]
    for options in asked:
        assert not (await service.embed(input="a text", **options))["data"][0]["cached"]
    for options in asked:
        assert (await service.embed(input="a text", **options))["data"][0]["cached"]
    for changed in ({"dtype": "bfloat16"}, {"engine_args": {"quantization": "fp8"}}, {"engine": "transformers"}):
        other = await serve(**changed)
        assert not (await other.embed(input="a text"))["data"][0]["cached"], changed
        assert (await other.embed(input="a text"))["data"][0]["cached"]
    assert (await (await serve()).embed(input="a text"))["data"][0]["cached"]


async def test_no_input_and_no_given_rationale_is_on_the_disk(serve: Serve, tmp_path: Path) -> None:
    service = await serve()
    await service.embed(input=SECRET)
    await service.embed(input=SECRET, mode="direct")
    written = await service.embed(input="public", rationale=SECRET)
    again = await service.embed(input="public", rationale=SECRET)
    assert again["data"][0]["cached"]
    assert again["data"][0]["rationale"] == written["data"][0]["rationale"]
    found = everything_below(tmp_path / "data")
    assert b"sums" in found
    for word in SECRET.split():
        assert word.strip(".!").encode() not in found


async def one_entry(folder: Path) -> None:
    """Answers do not wait until they are on the disk."""
    with diskcache.Cache(str(folder / "data" / "cache")) as store:
        await until(lambda: len(store) == 1)


async def test_damaged_entries_are_computed_anew(serve: Serve, tmp_path: Path) -> None:
    await (await serve()).embed(input="a text")
    await one_entry(tmp_path)
    with diskcache.Cache(str(tmp_path / "data" / "cache")) as store:
        [key] = list(store)
        for wreck in (b"", b"short", store[key][:-1] + b"\x00", records.encode.__doc__.encode() * 9, {"a": "pickle"}):
            store[key] = wreck
            service = await serve()
            assert not (await service.embed(input="a text"))["data"][0]["cached"]
            assert (await service.embed(input="a text"))["data"][0]["cached"]


@pytest.mark.parametrize(
    "row",
    ["value = 5, mode = 1, filename = NULL", "value = 'x', mode = 1, filename = NULL", "mode = 2, filename = NULL"],
)
async def test_a_row_that_nobody_wrote_is_a_damaged_entry_and_no_neighbours_trouble(
    serve: Serve, tmp_path: Path, row: str
) -> None:
    await (await serve()).embed(input="a text")
    await one_entry(tmp_path)
    with sqlite3.connect(tmp_path / "data" / "cache" / "cache.db") as database:
        database.execute(f"UPDATE Cache SET {row}")
    service = await serve()
    await service.embed(input="a neighbour")
    async with asyncio.timeout(10):
        replies = await asyncio.gather(*(service.embed(input=text) for text in ("a text", "a neighbour", "a new one")))
    assert [reply["data"][0]["cached"] for reply in replies] == [False, True, False]
    assert (await service.embed(input="a text"))["data"][0]["cached"]
    assert service.metric("grace_cache_lookups_total", result="error") == 0


@pytest.mark.parametrize("name", ["get", "set"])
async def test_no_request_waits_for_what_nobody_thought_of(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    service = await serve()

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(diskcache.Cache, name, fail)
    async with asyncio.timeout(10):
        for text in ("a text", "another", "a third"):
            assert not (await service.embed(input=text))["data"][0]["cached"]
    [*_, record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert vars(record)["error"] == "ZeroDivisionError"
    assert SECRET not in str(vars(record))


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("bombed",)


async def test_nothing_in_the_folder_is_ever_unpickled(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await (await serve()).embed(input="a text")
    await one_entry(tmp_path)
    with sqlite3.connect(tmp_path / "data" / "cache" / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = 4, value = ?, filename = NULL", (pickle.dumps(Bomb()),))
    service = await serve()
    assert not (await service.embed(input="a text"))["data"][0]["cached"]
    assert not (tmp_path / "bombed").exists()


@pytest.mark.parametrize("way", ["absolute", "climbing"])
async def test_a_row_that_names_a_file_elsewhere_is_a_miss_and_that_file_stays(
    serve: Serve, tmp_path: Path, way: str
) -> None:
    folder = tmp_path / "data" / "cache"
    await (await serve()).embed(input="a text")
    await one_entry(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    with sqlite3.connect(folder / "cache.db") as database:
        [[record]] = database.execute("SELECT value FROM Cache").fetchall()
        elsewhere.write_bytes(record)
        named = str(elsewhere) if way == "absolute" else "../../elsewhere"
        assert (folder / named).read_bytes() == record
        database.execute("UPDATE Cache SET mode = 2, value = NULL, filename = ?", (named,))
    service = await serve()
    assert not (await service.embed(input="a text"))["data"][0]["cached"]
    assert elsewhere.exists()
    assert (await service.embed(input="a text"))["data"][0]["cached"]  # kept anew, in the row that was damaged


async def test_a_destroyed_database_is_emptied(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "data" / "cache").mkdir(parents=True)
    (tmp_path / "data" / "cache" / "cache.db").write_bytes(b"this is no database" * 100)
    service = await serve()
    await service.embed(input="a text")
    assert (await service.embed(input="a text"))["data"][0]["cached"]


async def test_a_disk_that_fails_is_reported_once_and_done_without(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = await serve()

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(diskcache.Cache, "set", full)
    monkeypatch.setattr(diskcache.Cache, "get", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert not (await service.embed(input="a text"))["data"][0]["cached"]
    assert sum("going on without it" in record.message for record in caplog.records) == 1
    assert service.metric("grace_cache_lookups_total", result="error") == 3


async def test_a_folder_that_cannot_be_made_is_done_without(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cache").write_text("a file where the folder should be")
    service = await serve()
    for _ in range(2):
        assert not (await service.embed(input="a text"))["data"][0]["cached"]


async def test_it_stays_within_its_size(serve: Serve, tmp_path: Path) -> None:
    service = await serve(cache_max_mib=1)
    for i in range(300):
        await service.embed(input=f"text {i}. " * 20, max_rationale_tokens=2)
    with diskcache.Cache(str(tmp_path / "data" / "cache")) as store:
        assert store.volume() < 1.5 * 2**20


async def test_texts_that_come_together_are_kept_together_and_each_is_found(serve: Serve) -> None:
    service = await serve()
    texts = [f"text {i}" for i in range(200)]
    first = await service.embed(input=texts)
    again = await service.embed(input=texts[::-1])
    assert all(item["cached"] for item in again["data"])
    assert [i["embedding"] for i in again["data"][::-1]] == [i["embedding"] for i in first["data"]]
    assert service.engine.calls == 200


async def test_what_was_answered_before_the_end_is_there_after_it(serve: Serve) -> None:
    texts = [f"text {i}" for i in range(50)]
    service = await serve()
    await service.embed(input=texts)
    again = await (await serve()).embed(input=texts)  # on the same folder, the first one is stopped
    assert all(item["cached"] for item in again["data"])


async def full(serve: Serve, *, known: list[str]) -> tuple[Service, asyncio.Task[Any]]:
    """A service that knows some texts and has room for one more; the task ends when there is room for all again."""
    service = await serve(seconds=0.3, max_running_requests=1, max_queued_requests=2, max_inputs=3, max_samples=1)
    await service.embed(input=known)
    busy = asyncio.gather(*(service.embed(input=f"busy {i}") for i in range(2)))
    await until(lambda: service.metric("grace_queued_requests") == 1)
    return service, asyncio.ensure_future(busy)


async def test_a_batch_that_is_on_the_disk_is_answered_though_the_service_is_full(serve: Serve) -> None:
    service, busy = await full(serve, known=["a", "b", "c"])
    calls = service.engine.calls
    again = await service.embed(input=["c", "a", "b"])
    assert all(item["cached"] for item in again["data"])
    assert not busy.done()
    assert service.engine.calls == calls
    await service.embed(input=["d", "e"], status=429)
    await busy


async def test_of_a_batch_only_what_must_be_computed_needs_room_and_equal_texts_need_it_once(serve: Serve) -> None:
    service, busy = await full(serve, known=["a", "b"])
    copies = await service.embed(input=["c", "a", "c"])
    assert [item["cached"] for item in copies["data"]] == [False, True, False]
    assert copies["data"][0]["embedding"] == copies["data"][2]["embedding"]
    await busy
    assert service.engine.calls == 2 + 2 + 1
    assert service.metric("grace_rejections_total", reason="queue_full") == 0


async def test_a_batch_is_looked_up_once(serve: Serve) -> None:
    service = await serve()
    await service.embed(input=["a", "b", "c"])
    await service.embed(input=["a", "b", "d"])
    assert service.metric("grace_cache_lookups_total", result="miss") == 4
    assert service.metric("grace_cache_lookups_total", result="hit") == 2


async def test_what_was_made_of_a_batch_that_failed_is_kept(serve: Serve) -> None:
    service = await serve(seconds=0.3, max_running_requests=1)
    first = asyncio.create_task(service.client.post("/embed", json={"input": ["a", "b"]}))
    await until(lambda: service.engine.calls == 2)
    service.engine.kill()
    assert (await first).status_code == 503
    assert (await (await serve()).embed(input="a"))["data"][0]["cached"]


async def test_a_record_is_the_same_after_a_round_trip(prompter: Prompter) -> None:
    for job in (
        prompter.job("One. Two."),
        prompter.job("", mode="direct"),
        prompter.job("x", given="<think>a</think>"),
    ):
        before = await FakeEngine(prompter).represent(job)
        after = records.decode(records.encode(before), job)
        assert (after.segments, after.rationale) == (before.segments, before.rationale)
        np.testing.assert_array_equal(after.sums, before.sums)
        np.testing.assert_array_equal(after.last, before.last)
        assert after.cached


async def test_a_hit_is_fast(serve: Serve) -> None:
    service = await serve()
    await service.embed(input="a text")
    taken = []
    for _ in range(100):
        begin = time.perf_counter()
        await service.embed(input="a text")
        taken.append(time.perf_counter() - begin)
    assert statistics.median(taken) < 0.02  # the bench holds it to 5 ms; here other work shares the machine
