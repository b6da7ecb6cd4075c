"""The places in the engine: how many texts, and how many of their tokens, have one; who waits; who is sent away."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from grace.representation import Job
from grace_server import logs, tracing
from grace_server.errors import EngineDown, Overloaded, QueueTimeout, TooLarge
from grace_server.metrics import Metrics
from grace_server.pace import Pace
from grace_server.stop import in_background, wanted

_LONGEST_RETRY_S = 60
_BACKGROUND_SHARE = 0.5  # of the places and their tokens that background work may take
_CERTAIN = 0.8  # of queue_timeout_s: who would wait longer, as far as can be told, is refused at once
PROMISED = 0.4  # of deadline_s: the rest is for what cannot be told, as rationales that come out long
_PRESSED_S = 1.0  # an engine counts as having all it can take for so long after it had


@dataclass(frozen=True, slots=True)
class Limits:
    """What fits into one engine, which requests may wait, and for how long."""

    running_requests: int
    running_tokens: int
    queued_requests: int
    queued_tokens: int
    queue_timeout_s: float
    deadline_s: float | None = None
    background_requests: int | None = None  # of those running; None: half of them


@dataclass(slots=True)
class _Request:
    """What the texts of a request that was judged as a whole know of each other."""

    alone: bool  # it found nobody here
    may_wait: bool = False  # one of its texts was let in, if only to the queue; whoever waits behind it is a neighbour
    begun: bool = False  # one of its texts has had a place
    refused: bool = False  # one of its texts was, which counts for all of them


# That of a text. None: it came by itself.
_request: ContextVar[_Request | None] = ContextVar("request", default=None)


class _WantedNow(Exception):
    """Someone waits for what was queued as background work."""


class Places:
    """First come, first served: a text that needs many tokens is not overtaken for ever by those that need few.

    Who would wait in vain is refused at once: at the recent pace, his place would come after `queue_timeout_s`, or his
    answer after `deadline_s`. The answer takes as long as all that is inside and ahead of him (Little's law), so a
    service that slows down takes fewer in, however many places it has. Texts of a request that was let in as a whole
    are no queue to each other: those that wait behind the first of them wait as long as the request takes.

    But background work waits until no one else does, and takes half of the places at most: a search that comes while a
    million documents are being embedded finds a place. It waits as long as it takes, beside the queue and its limits:
    nobody's request, it is neither refused nor counted among those that waited.
    """

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        *,
        engines: Callable[[], int] = lambda: 1,  # how many answer now; looked at whenever a place is asked for
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._metrics = limits, metrics
        self._engines, self._clock = engines, clock
        self._running = self._running_tokens = self._queued_tokens = 0
        self._background = self._background_tokens = 0  # of those running
        self._ahead_tokens = 0  # of those queued, background work left out
        self._waiting: dict[asyncio.Future[None], int] = {}  # in order of arrival: the ticket and its tokens
        self._waiting_behind: dict[asyncio.Future[None], int] = {}  # background work
        self._finished_at: deque[float] = deque(maxlen=128)
        self._pace = Pace()
        self._refused_at = self._pressed_at = -math.inf
        self.down = False

    def check(self, jobs: Sequence[Job]) -> None:
        """Whether all of a request's texts can be taken at once, so that none waits in vain for its neighbours.

        Raises:
            TooLarge: they could not be taken even if nobody else were here.
            Overloaded: they cannot be taken now.
        """
        limits, tokens, engines = self._limits, [job.tokens_needed for job in jobs], self._engines()
        self._refuse_what_never_fits(max(tokens))
        requests = engines * limits.running_requests + limits.queued_requests
        total = engines * limits.running_tokens + limits.queued_tokens
        if len(jobs) > requests or sum(tokens) > total:
            raise TooLarge(
                f"{len(jobs)} texts with {sum(tokens)} tokens (rationales included) in one request; all that the "
                f"service holds is {requests} texts (max_running_requests, max_queued_requests) and {total} tokens "
                "(max_running_tokens, max_queued_tokens); send fewer texts at a time",
                param="input",
            )
        if not self._holds(len(jobs), sum(tokens)):
            raise self._overloaded()
        self._refuse_who_would_wait_in_vain()
        _request.set(_Request(alone=not self._running and not self._waiting))
        self._promise(sum(tokens), len(jobs))

    @asynccontextmanager
    async def reserve(self, tokens: int) -> AsyncIterator[None]:
        """A place in the engine for the length of the scope.

        Raises:
            TooLarge: it would never fit.
            Overloaded: the queue is full, or the answer would come too late.
            QueueTimeout: no place became free in time.
        """
        with tracing.span("admission", {"grace.tokens": tokens}):
            background = await self._enter(tokens)
        try:
            yield
        finally:
            now = self._clock()
            self._give_back(tokens, background)
            self._finished_at.append(now)
            self._grant()

    def done(self, tokens: int) -> None:
        """A text that reserved so many tokens is answered; what is withdrawn or fails is no work done."""
        self._pace.finish(tokens, self._clock())

    def fail(self) -> None:
        """The engine is dead: end everyone's waiting, and let nobody in."""
        self.down = True
        for ticket in (*self._waiting, *self._waiting_behind):
            if not ticket.done():
                ticket.set_exception(engine_down())

    async def _enter(self, tokens: int) -> bool:
        """Wait for a place; whether it is one of those of background work."""
        if self.down:
            raise engine_down()
        self._refuse_what_never_fits(tokens)
        if in_background.get() and await self._enter_behind(tokens):
            return True
        self._promise(tokens)
        request = _request.get()
        if not self._waiting and self._has_room(tokens, False):
            self._take(tokens, False)
            self._metrics.queue_seconds.observe(0.0)
        else:
            self._refuse_who_may_not_queue(tokens, request)
            await self._queue(tokens, background=False)
        if request is not None:
            request.may_wait = request.begun = True
        return False

    def _refuse_who_may_not_queue(self, tokens: int, request: _Request | None) -> None:
        if request is None:
            limits = self._limits
            if len(self._waiting) >= limits.queued_requests or self._ahead_tokens + tokens > limits.queued_tokens:
                raise self._overloaded()
            self._refuse_who_would_wait_in_vain()
            return
        # As a whole it had room, which by itself the queue may lack: long texts leave places beside each other empty.
        if not self._holds(1, tokens):
            raise self._overloaded()
        if not request.may_wait:
            # Others may have come since it was judged. From here on those ahead of the next one are its neighbours.
            self._refuse_who_would_wait_in_vain()
            request.may_wait = True

    async def _enter_behind(self, tokens: int) -> bool:
        """Wait for a place of background work; False, and no place, if someone waits for this text by now."""
        if (someone := wanted.get()) is not None and someone.done():
            return False
        if not self._queued and self._has_room(tokens, True):
            self._take(tokens, True)
            return True
        try:
            await self._queue(tokens, background=True)
        except _WantedNow:
            return False
        return True

    async def _queue(self, tokens: int, *, background: bool) -> None:
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting_behind if background else self._waiting
        queue[ticket] = tokens
        self._queued_tokens += tokens
        self._show()
        begin = self._clock()
        if not background:
            self._ahead_tokens += tokens
            self._press()
        try:
            await (_unless_wanted(ticket) if background else self._in_time(ticket))
        except BaseException as error:
            if ticket in queue:
                self._forget(queue, ticket)
                self._grant()
            elif ticket.done() and not ticket.cancelled() and ticket.exception() is None:
                # The place came in the same moment as the end of the waiting: pass it on.
                self._give_back(tokens, background)
                self._grant()
            if isinstance(error, TimeoutError):
                self._count_refusal("queue_timeout")
                raise QueueTimeout(
                    f"waited {self._limits.queue_timeout_s:g} s for a place (queue_timeout_s)",
                    retry_after=self._retry_after(),
                ) from None
            raise
        if background:
            return
        waited = self._clock() - begin
        self._metrics.queue_seconds.observe(waited)
        if record := logs.current.get():
            record.queue_s = max(record.queue_s, waited)

    async def _in_time(self, ticket: asyncio.Future[None]) -> None:
        """Wait for a place for `queue_timeout_s`; or, where a neighbour has had one, for as long as it takes.

        Raises:
            TimeoutError: no place came in time.
        """
        request = _request.get()
        if request is None or not request.begun:
            await asyncio.wait([ticket], timeout=self._limits.queue_timeout_s)
            if not ticket.done() and (request is None or not request.begun):
                raise TimeoutError
        await ticket

    def _grant(self) -> None:
        """Let in from the head of the queue as many as fit, background work last."""
        for queue, background in ((self._waiting, False), (self._waiting_behind, True)):
            while queue:
                ticket, tokens = next(iter(queue.items()))
                if not ticket.done():
                    if not self._has_room(tokens, background):
                        break
                    self._take(tokens, background)
                    ticket.set_result(None)
                self._forget(queue, ticket)
            if queue:
                break
        if self._waiting:
            self._press()
        elif not self._running or self._clock() - self._pressed_at > _PRESSED_S:
            self._pace.end()
        self._show()

    @property
    def refusing(self) -> bool:
        """Whether texts are being refused because their answers would come too late."""
        return self._clock() - self._refused_at < _PRESSED_S

    @property
    def _queued(self) -> int:
        return len(self._waiting) + len(self._waiting_behind)

    def _forget(self, queue: dict[asyncio.Future[None], int], ticket: asyncio.Future[None]) -> None:
        tokens = queue.pop(ticket)
        self._queued_tokens -= tokens
        if queue is self._waiting:
            self._ahead_tokens -= tokens

    def _holds(self, texts: int, tokens: int) -> bool:
        """Whether there is room for so many more, inside and in the queue together."""
        limits, engines = self._limits, self._engines()
        return (
            self._running + len(self._waiting) + texts <= engines * limits.running_requests + limits.queued_requests
            and self._running_tokens + self._ahead_tokens + tokens
            <= engines * limits.running_tokens + limits.queued_tokens
        )

    def _has_room(self, tokens: int, background: bool, texts: int = 1) -> bool:
        limits, engines = self._limits, self._engines()
        most, most_tokens = engines * limits.running_requests, engines * limits.running_tokens
        room = self._running + texts <= most and self._running_tokens + tokens <= most_tokens
        if not background or not self._background:
            return room
        behind = engines * (limits.background_requests or _BACKGROUND_SHARE * limits.running_requests)
        return (
            room
            and self._background + 1 <= behind
            and self._background_tokens + tokens <= _BACKGROUND_SHARE * most_tokens
        )

    def _take(self, tokens: int, background: bool) -> None:
        self._running += 1
        self._running_tokens += tokens
        self._background += background
        self._background_tokens += tokens * background
        if self._running >= self._engines() * self._limits.running_requests:
            self._press()
        self._show()

    def _press(self) -> None:
        """The engine has all it can take: what it does now is its pace."""
        self._pressed_at = self._clock()
        self._pace.begin(self._pressed_at, self._running_tokens)

    def _give_back(self, tokens: int, background: bool) -> None:
        self._running -= 1
        self._running_tokens -= tokens
        self._background -= background
        self._background_tokens -= tokens * background

    def _refuse_what_never_fits(self, tokens: int) -> None:
        if tokens > self._limits.running_tokens:
            raise TooLarge(
                f"this text and its rationale need {tokens} tokens, the service holds {self._limits.running_tokens} "
                "(max_running_tokens); ask for fewer max_rationale_tokens",
                param="input",
            )

    def _refuse_who_would_wait_in_vain(self) -> None:
        if self._wait_expected() > _CERTAIN * self._limits.queue_timeout_s:
            raise self._overloaded()

    def _wait_expected(self) -> float:
        """Seconds until a text that comes now would be let in; 0 as long as it is not known."""
        return self._pace.seconds_for(self._ahead_tokens)

    def _promise(self, tokens: int, texts: int = 1) -> None:
        """Refuse what would be answered after `deadline_s`, as far as can be told; who comes alone is let in."""
        deadline = self._limits.deadline_s
        if deadline is None:
            return
        most = PROMISED * deadline
        if texts > 1 and (alone := self._pace.seconds_for(tokens)) > most:
            raise TooLarge(
                f"{texts} texts in one request are expected to take {alone:.1f} s by themselves; for deadline_s "
                f"{deadline:g} no more is let in than takes {most:g} s; send fewer texts at a time",
                param="input",
            )
        request = _request.get()
        if (request is not None and request.alone) or (not self._running and not self._waiting):
            return
        expected = self._pace.seconds_for(self._running_tokens + self._ahead_tokens + tokens)
        if expected > most:
            why = (
                f"an answer is expected after {expected:.1f} s; for deadline_s {deadline:g} no more is let in than "
                f"takes {most:g} s"
            )
        elif not expected and not self._has_room(tokens, False, texts):
            why = "all places are taken, and how long one would take to become free is not known yet"
        else:
            return
        self._refused_at = self._clock()
        self._press()
        raise self._overloaded(why)

    def _overloaded(self, why: str = "") -> Overloaded:
        self._count_refusal("queue_full")
        return Overloaded(
            why
            or f"the queue is full: {len(self._waiting)} texts with {self._ahead_tokens} tokens are waiting"
            + (f", which takes about {wait:.1f} s" if (wait := self._wait_expected()) else ""),
            retry_after=self._retry_after(),
        )

    def _count_refusal(self, reason: str) -> None:
        """Of a request, once: its texts may all be refused, each by itself."""
        if (request := _request.get()) is not None:
            if request.refused:
                return
            request.refused = True
        self._metrics.rejections.labels(reason).inc()

    def _retry_after(self) -> int:
        """Seconds until what waits now is done, or one of those inside; within 1 to 60.

        At the recent pace or, if that is not known, at the rate of the last minute. Where less than two were done in
        it, at the distance of the last two: idle time says nothing of the rate.
        """
        now, ends = self._clock(), self._finished_at
        wait = self._wait_expected() or self._pace.seconds_for(self._running_tokens) / max(1, self._running)
        if not wait and len(ends) > 1:
            recent = [at for at in ends if now - at <= _LONGEST_RETRY_S]
            each = (now - recent[0]) / len(recent) if len(recent) > 1 else ends[-1] - ends[-2]
            wait = (len(self._waiting) + 1) * each
        return max(1, min(_LONGEST_RETRY_S, math.ceil(wait)))

    def _show(self) -> None:
        self._metrics.running_requests.set(self._running)
        self._metrics.running_tokens.set(self._running_tokens)
        self._metrics.queued_requests.set(self._queued)
        self._metrics.queued_tokens.set(self._queued_tokens)


async def _unless_wanted(ticket: asyncio.Future[None]) -> None:
    """Wait for a place in the background, as long as nobody else waits for it.

    Raises:
        _WantedNow: someone does.
    """
    someone = wanted.get()
    await asyncio.wait([ticket] if someone is None else [ticket, someone], return_when=asyncio.FIRST_COMPLETED)
    if not ticket.done():
        raise _WantedNow
    ticket.result()


def engine_down() -> EngineDown:
    """What everyone is told from the engine's death on."""
    return EngineDown("the engine died, this process is about to exit", retry_after=30)
