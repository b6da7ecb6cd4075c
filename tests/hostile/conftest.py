"""The service of `tests/server`, which is attacked here; and a socket to do it with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from tests.server.conftest import Service, checkpoint, model_folder, no_settings_from_outside, prompter, serve

__all__ = ["checkpoint", "model_folder", "no_settings_from_outside", "prompter", "serve"]

Say = Callable[..., Awaitable[bytes]]


@pytest.fixture
def say() -> Say:
    """Send bytes to a service, piece by piece, and return all that comes back until it closes."""

    async def talk(service: Service, *pieces: bytes, pause_s: float = 0.0) -> bytes:
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        heard = bytearray()

        async def listen() -> None:
            with suppress(ConnectionError):
                while chunk := await reader.read(2**16):
                    heard.extend(chunk)

        # Both at once: what comes back is lost when one writes on to an end that is closed.
        listening = asyncio.create_task(listen())
        try:
            with suppress(ConnectionError):
                for piece in pieces:
                    if listening.done():
                        break
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
            async with asyncio.timeout(10):
                await listening
        finally:
            listening.cancel()
            writer.close()
        return bytes(heard)

    return talk
