"""The queue in front of N engines, simulated: admission by requests and tokens, engines that batch, bursts.

A formula for queues takes one text at a time, or all of them at equal shares, and arrivals that know nothing of each
other. Here a text that is inside an engine gets `text_tokens_per_s` until the batch is so large that the engine's
`tokens_per_s` is shared out; who finds no place waits in order; who finds the queue full, or could not be answered in
time, is refused, and who has waited too long leaves. Where the assumptions of a formula hold, the simulation agrees
with it (tests/server/test_sizing.py).
Pure: equal seeds give equal results.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from grace_server.places import PROMISED


@dataclass(frozen=True, slots=True)
class Service:
    """N engines, and what may be in and before them: the settings of the service by the same names."""

    replicas: int
    tokens_per_s: float  # of one engine with a full batch
    text_tokens_per_s: float  # of one text, however empty the engine is
    max_running_requests: float = math.inf  # per engine
    max_running_tokens: float = math.inf  # per engine
    max_queued_requests: float = math.inf
    max_queued_tokens: float = math.inf
    queue_timeout_s: float = math.inf
    deadline_s: float = math.inf  # of a text that comes by itself; the service knows the pace of its engines


@dataclass(frozen=True, slots=True)
class Load:
    """Bursts come at random; each brings a number of texts that is geometric about `burst`."""

    texts_per_s: float
    tokens: float  # of a text on average, exponential: prompt and rationale
    burst: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the texts. Seconds from arrival to answer, of those answered."""

    answered: int
    refused: int  # queue full, or the answer would come after the deadline
    timed_out: int
    p50_s: float
    p99_s: float
    mean_s: float
    mean_wait_s: float  # in the queue
    busy: float  # share of the engines' tokens per second that was used

    @property
    def refused_share(self) -> float:
        """Of all texts, those refused or given up."""
        return (self.refused + self.timed_out) / max(1, self.answered + self.refused + self.timed_out)


def simulate(service: Service, load: Load, *, texts: int, warm_up: int = 0) -> Outcome:
    """Send `texts` texts; the first `warm_up` are not counted."""
    queue = _Queue(service)
    rng = random.Random(load.seed)
    now, number = 0.0, 0
    while number < texts:
        now += rng.expovariate(load.texts_per_s / load.burst)
        size = 1 if load.burst <= 1 else math.ceil(math.log(1 - rng.random()) / math.log(1 - 1 / load.burst)) or 1
        queue.run_until(now)
        for _ in range(min(size, texts - number)):
            queue.arrive(now, rng.expovariate(1 / load.tokens), counted=number >= warm_up)
            number += 1
    queue.run_until(math.inf)
    return queue.outcome(load)


@dataclass(slots=True)
class _Engine:
    """Texts that share the rate. `attained` grows for all alike, so only who is first to be done has to be known."""

    attained: float = 0.0  # tokens that a text inside since the beginning would have got
    since: float = 0.0
    tokens: float = 0.0
    inside: list[tuple[float, int, float, _Text]] = field(default_factory=list)  # heap by the end


@dataclass(frozen=True, slots=True)
class _Text:
    arrived: float
    tokens: float
    counted: bool


class _Queue:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._engines = [_Engine() for _ in range(service.replicas)]
        self._waiting: deque[_Text] = deque()
        self._waiting_tokens = 0.0
        self._ids = itertools.count()
        self._times: list[float] = []
        self._waits: list[float] = []
        self._refused = self._timed_out = 0
        self._served_tokens = self._now = 0.0

    def arrive(self, now: float, tokens: float, *, counted: bool) -> None:
        """A text comes: into an engine, into the queue, or away."""
        text, service = _Text(now, tokens, counted), self._service
        self._give_up(now)
        if self._too_late(tokens):
            self._refused += counted
            return
        if not self._waiting and self._enter(text, now):
            return
        if (
            tokens > service.max_running_tokens  # no engine would ever have room for it
            or len(self._waiting) >= service.max_queued_requests
            or self._waiting_tokens + tokens > service.max_queued_tokens
        ):
            self._refused += counted
            return
        self._waiting.append(text)
        self._waiting_tokens += tokens

    def run_until(self, end: float) -> None:
        """Let everything happen that happens before `end`."""
        while True:
            engine = min(self._engines, key=self._next_end)
            done = self._next_end(engine)
            if done > end or done == math.inf:
                return
            self._finish(engine, done)
            self._give_up(done)
            while self._waiting and self._enter(self._waiting[0], done):
                self._waiting_tokens -= self._waiting.popleft().tokens

    def outcome(self, load: Load) -> Outcome:
        """What was counted."""
        times = np.array(self._times or [math.nan])
        capacity = self._service.replicas * self._service.tokens_per_s * self._now
        return Outcome(
            answered=len(self._times),
            refused=self._refused,
            timed_out=self._timed_out,
            p50_s=float(np.quantile(times, 0.5)),
            p99_s=float(np.quantile(times, 0.99)),
            mean_s=float(times.mean()),
            mean_wait_s=float(np.mean(self._waits or [math.nan])),
            busy=self._served_tokens / capacity if capacity else 0.0,
        )

    def _too_late(self, tokens: float) -> bool:
        """Whether all that is inside and ahead takes longer than is promised; who comes alone is let in."""
        service = self._service
        inside = sum(engine.tokens for engine in self._engines)
        if service.deadline_s == math.inf or not (inside or self._waiting):
            return False
        pace = service.replicas * service.tokens_per_s
        return inside + self._waiting_tokens + tokens > PROMISED * service.deadline_s * pace

    def _enter(self, text: _Text, now: float) -> bool:
        """Into the engine with the fewest texts that has room, as a balancer does that counts them."""
        service = self._service
        engine = min(self._engines, key=lambda engine: len(engine.inside))
        # As in the service, the places are those of all engines together and a text fits any of them.
        if (
            len(engine.inside) >= service.max_running_requests
            or sum(e.tokens for e in self._engines) + text.tokens > service.replicas * service.max_running_tokens
        ):
            return False
        self._advance(engine, now)
        heapq.heappush(engine.inside, (engine.attained + text.tokens, next(self._ids), now, text))
        engine.tokens += text.tokens
        return True

    def _finish(self, engine: _Engine, now: float) -> None:
        self._advance(engine, now)
        end, _, entered, text = heapq.heappop(engine.inside)
        engine.attained = max(engine.attained, end)  # rounding must not leave it a hair before
        engine.tokens -= text.tokens
        self._served_tokens += text.tokens
        self._now = now
        if text.counted:
            self._times.append(now - text.arrived)
            self._waits.append(entered - text.arrived)

    def _give_up(self, now: float) -> None:
        while self._waiting and now - self._waiting[0].arrived >= self._service.queue_timeout_s:
            text = self._waiting.popleft()
            self._waiting_tokens -= text.tokens
            self._timed_out += text.counted

    def _rate(self, engine: _Engine) -> float:
        """Tokens per second that each text in it gets."""
        return min(self._service.text_tokens_per_s, self._service.tokens_per_s / max(1, len(engine.inside)))

    def _advance(self, engine: _Engine, now: float) -> None:
        engine.attained += (now - engine.since) * self._rate(engine)
        engine.since = now

    def _next_end(self, engine: _Engine) -> float:
        if not engine.inside:
            return math.inf
        return engine.since + max(0.0, engine.inside[0][0] - engine.attained) / self._rate(engine)
