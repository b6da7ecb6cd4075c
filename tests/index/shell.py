"""`grace-index` in a test: its subcommands on a data folder, with a fake engine in the model's place."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace.representation import Job, Representation
from grace_server.index.catalog import Catalog
from grace_server.index.cli import run
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.model import Model
from tests.index.filled import refusing

DOCUMENTS = [
    {"id": "1", "title": "River", "text": "The river rises in the hills.", "year": 1990},
    {"id": "2", "title": "Bridge", "text": "A guild built the bridge.", "year": 1432},
    {"id": "3", "title": "Harbour", "text": "Who built the harbour?", "year": 2001},
]
HALF = [0.5] * 64  # a vector
THEIRS = "f" * 32  # the fingerprint of another model


class Shell:
    """Runs subcommands on a data folder; `calls` counts texts that reached the fake engine.

    The engine dies after so many texts (`dies_after`) and refuses those that hold a word (`refused`); `config` changes
    the checkpoint's.
    """

    def __init__(self, folder: Path, prompter: Prompter) -> None:
        self.folder, self.prompter, self.calls = folder, prompter, 0
        self.dies_after: int | None = None
        self.refused: str | None = None
        self.config: dict[str, Any] = {}

    def model(self, fingerprint: str | None = None) -> Model:
        checkpoint = self.prompter.checkpoint
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, **self.config))
        if fingerprint:
            checkpoint = replace(checkpoint, fingerprint=fingerprint)
        return Model(FakeEngine(self.prompter).represent, self.prompter, checkpoint)

    def model_of(self, name: str | None, engine: str | None) -> AbstractAsyncContextManager[Model]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Model]:
            engine, turn = FakeEngine(self.prompter), asyncio.Lock()

            async def represent(job: Job) -> Representation:
                async with turn:
                    if engine.calls == self.dies_after:
                        engine.kill()
                    return await engine.represent(job)

            async with asyncio.timeout(20):  # a command that waits for ever fails its test
                yield replace(
                    self.model(name), represent=refusing(self.refused)(represent) if self.refused else represent
                )
            self.calls += engine.calls

        return opened()

    def __call__(self, *words: str | Path) -> int:
        return run(["--data-dir", str(self.folder), "--quiet", *map(str, words)], model_of=self.model_of)

    def collection(self, name: str = "a") -> Iterator[Collection]:
        catalog = Catalog(self.folder, Edges())
        yield catalog.get(name)
        catalog.close()


def written(folder: Path, kind: str) -> Path:
    """The three documents as a file or a folder."""
    path = folder / f"documents{kind}"
    lines = "".join(json.dumps(d) + "\n" for d in DOCUMENTS)
    match kind:
        case ".jsonl":
            path.write_text(lines)
        case ".jsonl.gz":
            path.write_bytes(gzip.compress(lines.encode()))
        case ".csv":
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, list(DOCUMENTS[0]))
                table.writeheader()
                table.writerows(DOCUMENTS)
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(DOCUMENTS), path)
        case _:
            path.mkdir()
            for d in DOCUMENTS:
                (path / f"{d['id']}.txt").write_text(f"{d['title']}\n\n{d['text']}")
    return path


def with_vectors(path: Path, *fingerprints: str | None) -> Path:
    """Documents with vectors, each by a model, and a blank line among them."""
    documents = [{"id": str(i), "vector": HALF, "fingerprint": one} for i, one in enumerate(fingerprints)]
    path.write_text("\n\n".join(map(json.dumps, documents)))
    return path
