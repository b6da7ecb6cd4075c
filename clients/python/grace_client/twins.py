"""Both clients of one server, for classes that have synchronous and asynchronous methods."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Self

from grace_client._async.client import DEFAULT_URL, AsyncGraceClient
from grace_client._sync.client import GraceClient


class Twins:
    """Each client is made when it is first used, unless it was given.

    There is an asynchronous one per event loop: connections belong to the loop they were opened on, and programs that
    call `asyncio.run` twice have two. It is closed when its loop ends as `asyncio.run` ends it, and let go when the
    loop is closed without that.

    What is pickled is the address and the key: another process opens connections of its own. Clients that were given
    stay behind, whatever else they were made with; a deep copy shares them.
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
        # Not a weak dictionary: open connections refer to their loop, so that no key would ever be let go.
        self._by_loop: dict[asyncio.AbstractEventLoop, _OfLoop] = {}

    @property
    def url(self) -> str:
        """Where the server is: a given client's address, or the one said, or the environment's, looked up once."""
        if (given := self._client or self._given) is not None:
            return given.http.url
        self._url = self._url or os.environ.get("GRACE_CLIENT_URL") or DEFAULT_URL
        return self._url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "api_key": self._api_key}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # as made anew from these

    def __deepcopy__(self, memo: object) -> Self:
        return type(self)(self._url, self._api_key, self._client, self._given)

    @property
    def sync(self) -> GraceClient:
        """For synchronous methods."""
        if self._client is None:
            self._client = GraceClient(self.url, api_key=self._api_key)
        return self._client

    @property
    def concurrent(self) -> AsyncGraceClient:
        """For asynchronous methods."""
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        of_loop = self._by_loop.get(loop)
        if of_loop is None or of_loop.closed:
            for other in [other for other in list(self._by_loop) if other.is_closed()]:
                self._by_loop.pop(other, None)
            of_loop = self._by_loop[loop] = _OfLoop(AsyncGraceClient(self.url, api_key=self._api_key))
        return of_loop.client


class _OfLoop:
    """A client that is closed with the running loop, which ends the asynchronous generators that were begun on it."""

    def __init__(self, client: AsyncGraceClient) -> None:
        self.client = client
        self.closed = False
        self._life = self._until_the_end()
        with suppress(StopIteration):  # begun, with nothing to wait for
            self._life.__anext__().send(None)

    async def _until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self.closed = True
            await self.client.aclose()
