"""An engine that is obviously fake: everything is derived from a hash of the text. For tests of what surrounds it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import numpy as np

from grace.engines.base import Delta, assemble_states
from grace.errors import EngineDead
from grace.prompt import Prompter
from grace.representation import Floats, Job, Representation


class FakeEngine:
    """Equal jobs get equal representations; nothing else about them means anything.

    `seconds_per_text` makes it slow; `calls` counts what reached it; `kill` makes it dead.
    """

    def __init__(self, prompter: Prompter, *, seconds_per_text: float = 0.0) -> None:
        self._prompter = prompter
        self._seconds = seconds_per_text
        self._dead = asyncio.Event()
        self.calls = 0
        self.cancelled = 0

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to free."""

    @property
    def dead(self) -> bool:
        """True after `kill`."""
        return self._dead.is_set()

    def kill(self) -> None:
        """Fail what is pending and all that comes."""
        self._dead.set()

    async def represent(self, job: Job) -> Representation:
        """Answer from the hash of the job."""
        async for item in self.stream(job):
            if isinstance(item, Representation):
                return item
        raise EngineDead("the fake engine gave no representation")

    async def stream(self, job: Job) -> AsyncIterator[Delta | Representation]:
        """The words of a made-up rationale, then the representation."""
        self.calls += 1
        words = self._words(job)
        try:
            for word in words:
                await self._wait(self._seconds / len(words))
                yield word
            if not words:
                await self._wait(self._seconds)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        yield self._representation(job, "".join(words))

    async def _wait(self, seconds: float) -> None:
        if self._dead.is_set():
            raise EngineDead("the fake engine was killed")
        if seconds:
            try:
                await asyncio.wait_for(self._dead.wait(), seconds)
            except TimeoutError:
                return
            raise EngineDead("the fake engine was killed")
        await asyncio.sleep(0)

    def _words(self, job: Job) -> list[str]:
        if not job.max_new_tokens:
            return []
        stamp = hashlib.sha256(repr((job.prompt_ids, job.temperature, job.sample)).encode()).hexdigest()
        return ["<think>", f"A text of {job.input_tokens} tokens.", "</think>", f" Its mark is {stamp[:6]}."]

    def _representation(self, job: Job, text: str) -> Representation:
        ids = self._prompter.rationale_ids(text) if text else ()
        stop = self._prompter.stop_ids[0]
        generated = (*ids, stop)[: job.max_new_tokens]
        tokens = [*job.prompt_ids[job.pooled_from :], *generated[:-1]]
        hidden = self._prompter.checkpoint.hidden_size
        states = np.stack([_state(token, hidden) for token in tokens])
        return assemble_states(job, self._prompter, generated=generated, states=states)


def _state(token: int, hidden: int) -> Floats:
    """(hidden,) a fixed pseudo-random state of a token: texts that share words come out alike."""
    return np.random.default_rng(token).standard_normal(hidden, dtype=np.float32)
