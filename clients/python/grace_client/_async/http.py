"""Requests and answers: the key, the id, the timeouts, the retries, the errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel

from grace_client import wire
from grace_client._async.primitives import sleep, still_wanted
from grace_client.answer import read
from grace_client.errors import BadAnswer, ConnectionFailed, GraceError, Overloaded, TimedOut, from_event, from_response
from grace_client.events import Event, EventParser
from grace_client.retries import SAFE_METHODS, Retries

Answer = TypeVar("Answer", bound=BaseModel)

try:
    _AGENT = f"grace-client/{version('grace-client')}"
except PackageNotFoundError:  # used from its folder, not installed
    _AGENT = "grace-client"


class AsyncHttp:
    """A connection pool to one server. Every error it raises is a `GraceError`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None,
        timeout: httpx.Timeout,
        retries: Retries,
        headers: Mapping[str, str] | None,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, got {url!r}")
        own = {"user-agent": _AGENT, "accept": "application/json"}
        if api_key:
            own["authorization"] = wire.bearer(api_key)
        self.url = url.rstrip("/")
        self.retries = retries
        self._pool = httpx.AsyncClient(
            base_url=self.url, headers={**own, **(headers or {})}, timeout=timeout, transport=transport
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    async def call(
        self,
        answer: type[Answer],
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        patient: bool = False,
        until: float | None = None,
    ) -> Answer:
        """Ask, and read the answer as a model.

        Raises:
            BadAnswer: it is none of a GRACE server.
        """
        response = await self.request(
            method, path, body=body, query=query, idempotent=idempotent, patient=patient, until=until
        )
        return read(answer, response.content, request_id=response.headers.get("x-request-id"))

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        query: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        retries: Retries | None = None,
        patient: bool = False,
        until: float | None = None,
    ) -> httpx.Response:
        """Ask, again if that may help. `idempotent` says that doing it twice does no harm; GET, PUT, DELETE are.

        For a `patient` one, a server without room that says when to come again costs no attempt. `until`, a moment of
        `time.monotonic()`: no pause goes beyond it, and no wait for the network begins with more time than is left.
        """
        return await self._repeated(
            method, path, body, query, idempotent, retries or self.retries, stream=False, patient=patient, until=until
        )

    @asynccontextmanager
    async def events(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        read_timeout_s: float | None = None,
        until: float | None = None,
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The events of an answer as they come. Leaving the block closes the connection, which ends the work behind it.

        An event named `error` is raised. Only the beginning is retried.

        `until`, a moment of `time.monotonic()`, holds for the beginning, and is looked at whenever something comes, be
        it a comment: a stream that is kept alive never runs into the read timeout.
        """
        response = await self._repeated(
            method, path, body, None, True, self.retries, stream=True, read_timeout_s=read_timeout_s, until=until
        )
        try:
            yield self._read(response, until)
        finally:
            await response.aclose()

    async def _read(self, response: httpx.Response, until: float | None) -> AsyncIterator[Event]:
        request_id = response.headers.get("x-request-id", "")
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            what = kind or "an answer without a type"
            raise BadAnswer(f"the answer is no stream of events but {what}", request_id=request_id)
        parser = EventParser()
        try:
            async for chunk in response.aiter_bytes():
                for event in parser.feed(chunk):
                    if event.name == "error":
                        raise from_event(event.data, request_id=request_id)
                    yield event
                still_wanted()
                if until is not None and time.monotonic() >= until:
                    raise TimedOut("the time allowed is over", request_id=request_id)
        except httpx.HTTPError as error:
            raise _translated(error, request_id) from _cause(error)

    async def _repeated(
        self,
        method: str,
        path: str,
        body: object,
        query: Mapping[str, Any] | None,
        idempotent: bool | None,
        retries: Retries,
        *,
        stream: bool,
        patient: bool = False,
        read_timeout_s: float | None = None,
        until: float | None = None,
    ) -> httpx.Response:
        harmless = method in SAFE_METHODS if idempotent is None else idempotent
        request_id = secrets.token_hex(12)
        headers = {"x-request-id": request_id}
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = body if isinstance(body, bytes) else wire.encode(body)
        timeout = self._pool.timeout
        if read_timeout_s is not None:
            timeout = httpx.Timeout(
                connect=timeout.connect, read=read_timeout_s, write=timeout.write, pool=timeout.pool
            )
        attempt = 0
        while True:
            attempt += 1
            # Made anew each time: a request that was sent is used up.
            try:
                request = self._pool.build_request(
                    method, path, content=content, params=query, headers=headers, timeout=_within(timeout, until)
                )
            except httpx.InvalidURL as error:
                raise ValueError(f"what is asked for does not fit into a URL: {error}") from error
            try:
                return await self._once(request, request_id, stream=stream)
            except GraceError as error:
                wait_s = retries.wait_s(error, attempt=attempt, idempotent=harmless)
                if wait_s is None:
                    raise
                if until is not None and time.monotonic() + wait_s >= until:
                    raise TimedOut(f"no answer in the time allowed: {error.message}", request_id=request_id) from error
                if patient and isinstance(error, Overloaded) and error.retry_after_s is not None:
                    attempt -= 1
            await sleep(wait_s)

    async def _once(self, request: httpx.Request, request_id: str, *, stream: bool) -> httpx.Response:
        try:
            response = await self._pool.send(request, stream=True)
            try:
                if not stream or not response.is_success:
                    await response.aread()
            except BaseException:
                await response.aclose()
                raise
        except httpx.HTTPError as error:
            raise _translated(error, request_id) from _cause(error)
        if response.is_success:
            return response
        raise from_response(response.status_code, response.headers, response.content, request_id=request_id)


def _within(timeout: httpx.Timeout, until: float | None) -> httpx.Timeout:
    """The timeouts, none longer than there is time."""
    if until is None:
        return timeout
    left = max(until - time.monotonic(), 0.001)
    return httpx.Timeout(
        **{name: left if most is None else min(most, left) for name, most in timeout.as_dict().items()}
    )


def _translated(error: httpx.HTTPError, request_id: str) -> GraceError:
    arrived = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    # httpx quotes the header that it refuses, which may be a secret.
    said = "" if isinstance(error, httpx.LocalProtocolError) else str(error)
    what = said or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"no answer in time: {what}", request_id=request_id, arrived=arrived)
    return ConnectionFailed(f"the connection failed: {what}", request_id=request_id, arrived=arrived)


def _cause(error: httpx.HTTPError) -> httpx.HTTPError | None:
    return None if isinstance(error, httpx.LocalProtocolError) else error
