"""A worker of Ray Data: an actor around one engine, which is given documents and gives back what became of them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from grace.errors import CheckpointError
from grace.prompt import Prompter
from grace_server.engine import MakeEngine, load_checkpoint
from grace_server.index.model import Model
from grace_server.index.outcome import Outcome, outcome_of
from grace_server.index.reading import Pending
from grace_server.index.settings import CollectionSettings
from grace_server.settings import Settings

WATCH_S = 0.2


class Worker:
    """Called from several threads at once; the engine has one event loop, in a thread of its own.

    Raises:
        CheckpointError: on construction, when the model here is not the one the collection is built by.
    """

    def __init__(
        self,
        settings: Settings,
        collection: CollectionSettings,
        fingerprint: str,
        make_engine: MakeEngine,
    ) -> None:
        checkpoint = load_checkpoint(settings)
        if checkpoint.fingerprint != fingerprint:
            raise CheckpointError(
                f"{settings.model} is the model {checkpoint.fingerprint} on this machine, the index is built by "
                f"{fingerprint}: put the same files on every machine"
            )
        self.settings = collection  # so that `Model` takes this for a collection
        prompter = Prompter(checkpoint)
        self._engine = make_engine(settings, checkpoint, prompter)
        self._model = Model(self._engine.represent, prompter, checkpoint)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="engine", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._engine.start(), self._loop).result()
        self._watch = asyncio.run_coroutine_threadsafe(self._die_with_the_engine(), self._loop)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns `waiting` in, `label` and `outcome` out."""
        waiting: Sequence[Pending] = batch["waiting"]
        outcomes = asyncio.run_coroutine_threadsafe(self._all(waiting), self._loop).result()
        column = np.empty(len(outcomes), dtype=object)
        column[:] = outcomes
        return {"label": np.array([one.label for one in waiting], dtype=np.int64), "outcome": column}

    async def _all(self, waiting: Sequence[Pending]) -> list[Outcome]:
        return await asyncio.gather(*(outcome_of(self._model, self, one) for one in waiting))

    async def _die_with_the_engine(self) -> None:
        """Ray starts an actor again, and gives it its batches again, only when its process is gone."""
        while not self._engine.dead:  # noqa: ASYNC110 - an engine has a property for its death, and no event
            await asyncio.sleep(WATCH_S)
        os._exit(1)
