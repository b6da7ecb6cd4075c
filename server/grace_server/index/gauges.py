"""What Prometheus is told of each collection, counted when it asks."""

from __future__ import annotations

import time
from collections.abc import Callable

from grace_server.index.catalog import Catalog
from grace_server.index.description import bytes_of
from grace_server.index.errors import StoreUnavailable
from grace_server.index.store import Connection
from grace_server.metrics import Metrics


def show(catalog: Catalog, metrics: Metrics, *, clock: Callable[[], float] = time.time) -> None:
    """Set the gauges of all collections; those of deleted ones go. Blocking, and cheap at any size."""
    gauges = (
        metrics.index_rows,
        metrics.index_waiting,
        metrics.index_tombstones,
        metrics.index_bytes,
        metrics.index_checkpoint_age,
        metrics.index_jobs,
    )
    for gauge in gauges:
        gauge.clear()
    metrics.unopened_indexes.set(len(catalog.unopened))
    for collection in catalog:
        manifest, local = collection.manifest, collection.local
        try:
            waiting, jobs = collection.store.read(_unfinished)
            # Vectors elsewhere are counted here: a machine that is away must not take the metrics with it.
            rows = collection.store.read(_ready) if local is None else len(local)
        except StoreUnavailable:  # deleted just now
            continue
        values = (
            rows,
            waiting,
            0 if local is None else local.tombstones,
            bytes_of(collection),
            0.0 if manifest is None else max(0.0, clock() - manifest.written_at),
            jobs,
        )
        for gauge, value in zip(gauges, values, strict=True):
            gauge.labels(collection.name).set(value)


def _unfinished(connection: Connection) -> tuple[int, int]:
    """Documents that wait, and jobs that are not finished."""
    waiting = connection.execute("SELECT count(*) FROM document WHERE state = 'pending'").fetchone()[0]
    jobs = connection.execute("SELECT count(*) FROM job WHERE finished_at IS NULL").fetchone()[0]
    return waiting, jobs


def _ready(connection: Connection) -> int:
    """Documents with a vector."""
    return int(connection.execute("SELECT count(*) FROM document WHERE state = 'ready'").fetchone()[0])
