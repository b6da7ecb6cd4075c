"""Whether requests come faster than this process can read them: then some are refused unread, at next to no cost.

Admission guards the engine, but to be refused there a request must have been read, checked and tokenised; at ten times
the capacity that alone fills a core, every refusal waits behind the others, and a CPU engine gets less of it. The signs
are an event loop that runs late, and goes on doing so, and one that is busy much of the time. Pure arithmetic, but for
`follow`.
"""

from __future__ import annotations

import asyncio
import math
import time

_EVERY_S = 0.05  # how often it is looked: each look costs some 0.3 ms of a slow core
_MEMORY_S = 1.0
_MOST_S = 0.1  # a moment counts as at most this late: one long pause is not yet a sign
_BEARABLE_S, _TOO_LATE_S = 0.02, 0.06  # mean lateness at which the first and the last request are refused
_BEARABLE_BUSY, _TOO_BUSY = 0.3, 0.6  # share of a core that the loop's thread uses, likewise


class Lag:
    """How late and how busy the event loop is, on average, and the share of requests to refuse for it."""

    def __init__(self) -> None:
        self._late_s = self._busy = 0.0
        self._owed = 0.0  # refusals, in fractions of one

    def note(self, late_s: float, busy: float = 0.0) -> None:
        """A moment `_EVERY_S` after the last one came so much later; for this share of the time the thread computed."""
        capped = min(max(late_s, 0.0), _MOST_S)
        kept = math.exp(-(_EVERY_S + capped) / _MEMORY_S)
        self._late_s = self._late_s * kept + capped * (1 - kept)
        self._busy = self._busy * kept + busy * (1 - kept)

    @property
    def share(self) -> float:
        """Share of requests to refuse, from 0 to 1."""
        late = (self._late_s - _BEARABLE_S) / (_TOO_LATE_S - _BEARABLE_S)
        busy = (self._busy - _BEARABLE_BUSY) / (_TOO_BUSY - _BEARABLE_BUSY)
        return min(1.0, max(0.0, late, busy))

    def refuses(self) -> bool:
        """Whether this request is one of those: every third at a share of a third, rather than by chance."""
        self._owed += self.share
        if self._owed < 1:
            return False
        self._owed -= 1
        return True

    async def follow(self) -> None:
        """Note the loop's lateness until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before, computed = loop.time(), time.thread_time()
            await asyncio.sleep(_EVERY_S)
            passed = loop.time() - before
            self.note(passed - _EVERY_S, (time.thread_time() - computed) / passed)
