"""A corpus through Ray Data: `grace-index build --ray`.

    SQLite --labels--> read (a task on this machine) --texts--> engines (actors, anywhere) --outcomes--> SQLite

All documents are rows in SQLite before the first one is embedded, and this process alone writes. A document leaves the
state `pending` in one transaction, together with its vector; an outcome that comes a second time, because a worker died
and its batch was given to another one, finds it gone from there and is passed over. So every document is embedded
exactly once into the store, and a run that was killed goes on with what is still pending.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from grace.errors import EngineError
from grace_server.engine import MakeEngine
from grace_server.index import reading
from grace_server.index.collection import Collection
from grace_server.index.outcome import Outcome
from grace_server.index.store import looking_at
from grace_server.index.vectors import Labels
from grace_server.replicas.worker import Worker
from grace_server.settings import Settings

BATCH = 32  # documents that an actor is given at once, and that a transaction stores
WINDOW = 1_000_000  # documents in one run of Ray Data: bounds what this process keeps in mind

Advance = Callable[[int], None]


@contextmanager
def cluster() -> Iterator[None]:
    """The cluster that RAY_ADDRESS names or that runs on this machine; without one, a small one of our own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def embed_waiting(collection: Collection, settings: Settings, make_engine: MakeEngine, *, advance: Advance) -> None:
    """Embed all documents that wait; returns when none is left. Blocks; needs a cluster.

    Raises:
        EngineError: the workers embed nothing.
    """
    while len(labels := collection.store.read(lambda c: reading.pending_labels(c, limit=WINDOW))):
        settled = 0
        try:
            for outcomes in _outcomes(collection, labels, settings, make_engine):
                _store(collection, outcomes)
                settled += len(outcomes)
                advance(len(outcomes))
        except RayError as error:
            raise EngineError(f"the workers cannot go on: {_said(error)}") from error
        if not settled:
            raise EngineError(f"{len(labels)} documents wait and the workers gave nothing back")


def _outcomes(
    collection: Collection, labels: Labels, settings: Settings, make_engine: MakeEngine
) -> Iterator[list[tuple[int, Outcome]]]:
    """Labels with what became of them, a batch at a time, in whatever order they are ready."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    batches = np.array_split(labels, -(-len(labels) // BATCH))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    dataset = (
        ray.data.from_items([{"labels": batch.tolist()} for batch in batches], override_num_blocks=len(batches))
        .map_batches(
            _read,  # type: ignore[arg-type] # its type has no place for what fn_kwargs brings
            fn_kwargs={"path": collection.store.path.resolve()},
            batch_size=1,
            num_cpus=0.01,
            scheduling_strategy=here,
        )
        .map_batches(
            Worker,
            fn_constructor_args=(settings, collection.settings, collection.fingerprint, make_engine),
            batch_size=BATCH,
            num_cpus=settings.ray_cpus,
            num_gpus=settings.ray_gpus,
            compute=ray.data.ActorPoolStrategy(
                min_size=settings.ray_min_replicas,
                max_size=settings.ray_max_replicas,
                # While one batch runs out, its places in the engine are taken by the next.
                max_concurrent_calls_per_actor=-(-settings.max_num_seqs // BATCH) + 1,
                enable_true_multi_threading=True,
            ),
        )
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="numpy"):
        yield list(zip(batch["label"].tolist(), batch["outcome"], strict=True))


def _read(batch: dict[str, Any], path: Path) -> dict[str, Any]:
    """Labels in, the texts of those that still wait out. Runs next to the process that writes."""
    labels = np.concatenate([np.asarray(some, dtype=np.int64) for some in batch["labels"]])
    with looking_at(path) as connection:
        waiting = reading.pending_among(connection, labels)
    column = np.empty(len(waiting), dtype=object)
    column[:] = waiting
    return {"waiting": column}


def _said(error: RayError) -> str:
    """The last line, which is what was raised; those before are the places it went through."""
    return str(error).strip().rpartition("\n")[2]


def _store(collection: Collection, outcomes: list[tuple[int, Outcome]]) -> None:
    made = [outcome for _, outcome in outcomes if not isinstance(outcome, str)]
    if made:
        assert collection.fingerprint is not None
        collection.embedded(made, fingerprint=collection.fingerprint)
    for label, outcome in outcomes:
        if isinstance(outcome, str):
            collection.failed(label, outcome)
