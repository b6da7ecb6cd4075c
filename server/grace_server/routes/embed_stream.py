"""The streamed answer of `/embed`: events `rationale` (deltas), `embedding` (the item), `done`, or `error`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from grace.representation import Job, Representation
from grace_server import logs
from grace_server.audit.record import records
from grace_server.embedding import Options, make_jobs, note, pool_all
from grace_server.errors import InvalidValue, envelope, translate
from grace_server.house import House
from grace_server.routes.shapes import Encoding, dumps, embed_item, embed_usage
from grace_server.stop import Item, items_of


@dataclass(frozen=True, slots=True)
class Shown:
    """What of an embedding goes out, and how."""

    encoding: Encoding
    explain: bool
    audit: bool


class Events(StreamingResponse):
    """Events, and the scope they come out of.

    A response that is cancelled while it sends lets go of its iterator, nothing more: until that is collected, the
    engine would go on writing for a client who has left.
    """

    def __init__(self, events: AsyncIterator[bytes], scope: AsyncExitStack) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._scope = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them, and close the scope however that ends."""
        async with self._scope:
            await super().__call__(scope, receive, send)


async def begin(
    house: House,
    texts: Sequence[str],
    options: Options,
    rationales: Sequence[str] | None,
    shown: Shown,
) -> Events:
    """Wait for the first piece, then hand over the events: what fails until then still has a status of its own."""
    if len(texts) > 1:
        raise InvalidValue(f"stream takes one input, not {len(texts)}", param="stream")
    if options.n > 1:
        raise InvalidValue("stream takes n = 1: the pieces of several rationales would mingle", param="stream")
    [(job,)] = await make_jobs(house, texts, options, rationales)
    async with AsyncExitStack() as stack:
        items = await stack.enter_async_context(items_of(house.front, job))
        events = _events(house, texts[0], job, options, shown, await anext(items), items)
        await stack.enter_async_context(aclosing(events))
        return Events(events, stack.pop_all())
    raise AssertionError("unreachable")


async def _events(
    house: House,
    text: str,
    job: Job,
    options: Options,
    shown: Shown,
    first: Item,
    rest: AsyncIterator[Item],
) -> AsyncGenerator[bytes, None]:
    try:
        item: Item | None = first
        while item is not None:
            if isinstance(item, Representation):
                for event in _last_events(house, text, job, item, options, shown):
                    yield event
            else:
                yield _event("rationale", {"index": 0, "delta": item})
            item = await anext(rest, None)
    except Exception as error:  # noqa: BLE001 - the status is sent already: the error can only be an event
        record = logs.current.get()
        request_id = record.request_id if record else ""
        told = translate(error, request_id)
        if record:
            record.error = told.code
        if told.status == 500:
            logs.failure(error, request_id, log_texts=house.settings.log_texts)
        yield _event("error", envelope(told))


def _last_events(
    house: House, text: str, job: Job, representation: Representation, options: Options, shown: Shown
) -> list[bytes]:
    [embedded] = pool_all(house, [(job,)], [representation], options)
    note(house, [embedded])
    [line] = records(house, [text], options, [embedded], wanted=shown.audit)
    item = embed_item(0, embedded, shown.encoding, explain=shown.explain, dimensions=options.dimensions, audit=line)
    done = {
        "model": house.model_name,
        "fingerprint": house.checkpoint.fingerprint,
        "usage": embed_usage([embedded]),
    }
    return [_event("embedding", item), _event("done", done)]


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + dumps(data) + b"\n\n"
