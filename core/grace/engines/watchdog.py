"""What hangs looks like what works: asked, it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

TICK_S = 0.25
_OFTEN_S = 5.0


async def silence(ask: Callable[[], Awaitable[object]], *, limit_s: float) -> None:
    """Ask again and again; return when an answer has not come for `limit_s`. An error is an answer.

    Time is counted in ticks of this loop, not read off a clock: while this process itself is stopped (a suspended
    machine, a debugger), nobody can answer it, and none is counted.
    """
    while True:
        answer = asyncio.ensure_future(ask())
        try:
            ticks = 0
            while not answer.done():
                if ticks * TICK_S >= limit_s:
                    return
                await asyncio.wait([answer], timeout=TICK_S)
                ticks += 1
            if not answer.cancelled():
                answer.exception()  # looked at, lest asyncio complain
        finally:
            answer.cancel()
        await asyncio.sleep(min(_OFTEN_S, limit_s / 4))
