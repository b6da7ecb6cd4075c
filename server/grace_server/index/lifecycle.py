"""From start to stop: what the application enters when the model is there, and leaves when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.indexes import Indexes
from grace_server.index.model import Model, Represent, RepresentAll


@asynccontextmanager
async def open_indexes(
    data_dir: Path,
    represent: Represent,
    prompter: Prompter,
    checkpoint: Checkpoint,
    *,
    edges: Edges | None = None,
    max_input_chars: int | None = None,
    represent_all: RepresentAll | None = None,
) -> AsyncIterator[Indexes]:
    """Open every collection of a data folder, and go on with the jobs that earlier processes left.

    Raises:
        StoreLocked: another process has the folder.
        StoreUnavailable: it cannot be used.
    """
    catalog = await asyncio.to_thread(Catalog, data_dir, edges or Edges())
    indexes = Indexes(catalog, Model(represent, prompter, checkpoint, max_input_chars, represent_all))
    await indexes.start()
    try:
        yield indexes
    finally:
        await indexes.close()
