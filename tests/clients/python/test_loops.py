"""One client for synchronous methods, and one for each event loop, which goes when its loop does."""

from __future__ import annotations

import asyncio
import gc
import weakref

from grace_client import AsyncGraceClient
from grace_client.twins import Twins
from tests.clients.python.house import House


def test_each_loop_has_one_client_which_is_closed_with_it(listening: House) -> None:
    twins = Twins(listening.url)
    used: list[AsyncGraceClient] = []

    async def ask() -> None:
        client = twins.concurrent
        assert (await client.info()).model == "tiny"
        assert twins.concurrent is client
        assert not client.http._pool.is_closed
        used.append(client)

    for _ in range(3):
        asyncio.run(ask())
    assert len(set(used)) == 3
    assert all(client.http._pool.is_closed for client in used)


def test_clients_of_closed_loops_are_let_go(listening: House) -> None:
    twins = Twins(listening.url)

    async def ask() -> weakref.ref[AsyncGraceClient]:
        client = twins.concurrent
        assert (await client.info()).model == "tiny"
        return weakref.ref(client)

    clients = [asyncio.run(ask()) for _ in range(3)]
    gc.collect()
    assert [client() is None for client in clients] == [True, True, False]


def test_a_loop_that_is_closed_without_further_ado_is_let_go_too() -> None:
    twins = Twins("http://grace")

    async def made() -> weakref.ref[AsyncGraceClient]:
        return weakref.ref(twins.concurrent)

    def once() -> weakref.ref[AsyncGraceClient]:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(made())
        finally:
            loop.close()

    clients = [once() for _ in range(3)]
    gc.collect()
    assert [client() is None for client in clients] == [True, True, False]


def test_a_loop_that_ended_its_generators_and_goes_on_gets_a_client_that_is_open() -> None:
    twins = Twins("http://grace")

    async def first_and_second() -> tuple[AsyncGraceClient, AsyncGraceClient]:
        first = twins.concurrent
        await asyncio.get_running_loop().shutdown_asyncgens()
        return first, twins.concurrent

    loop = asyncio.new_event_loop()
    try:
        first, second = loop.run_until_complete(first_and_second())
    finally:
        loop.close()
    assert first.http._pool.is_closed
    assert not second.http._pool.is_closed
