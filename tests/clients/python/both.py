"""Both clients under one face, so that every promise is asked of both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from grace_client import AsyncGraceClient, GraceClient


class Both:
    """Calls a method of either client by its dotted name. What is iterated over comes back as a list."""

    def __init__(self, client: GraceClient | AsyncGraceClient) -> None:
        self.client = client

    async def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        method: Any = self.client
        for part in name.split("."):
            method = getattr(method, part)
        if isinstance(self.client, GraceClient):
            return await asyncio.to_thread(_listed, method, args, options)
        result = method(*args, **options)
        if inspect.isasyncgen(result):
            return [item async for item in result]
        return await result

    async def embed_stream(self, text: str, seen: Callable[[str], None], **options: Any) -> Any:
        """Embed as a stream: each piece is `seen` as it comes; the result."""
        if isinstance(self.client, GraceClient):
            sync = self.client

            def read() -> Any:
                with sync.embed_stream(text, **options) as stream:
                    for piece in stream:
                        seen(piece)
                return stream.result

            return await asyncio.to_thread(read)
        async with self.client.embed_stream(text, **options) as stream:
            async for piece in stream:
                seen(piece)
        return stream.result


def _listed(method: Any, args: Any, options: Any) -> Any:
    result = method(*args, **options)
    return list(result) if inspect.isgenerator(result) else result
