"""Both clients of one server, for classes that have synchronous and asynchronous methods."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

from grace_client._async.client import AsyncGraceClient
from grace_client._sync.client import GraceClient


class Twins:
    """Each client is made when it is first used, unless it was given.

    There is an asynchronous one per event loop: connections belong to the loop they were opened on, and programs that
    call `asyncio.run` twice have two.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
    ) -> None:
        self._url, self._api_key = url, api_key
        self._client, self._given = client, async_client
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGraceClient] = WeakKeyDictionary()

    @property
    def sync(self) -> GraceClient:
        """For synchronous methods."""
        if self._client is None:
            self._client = GraceClient(self._url, api_key=self._api_key)
        return self._client

    @property
    def concurrent(self) -> AsyncGraceClient:
        """For asynchronous methods."""
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self._by_loop[loop] = AsyncGraceClient(self._url, api_key=self._api_key)
        return self._by_loop[loop]
