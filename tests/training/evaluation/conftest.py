"""Evaluations of a tiny random model: the fake engine where the engine is not what is tested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grace import Checkpoint, Grace
from grace.engines.fake import FakeEngine
from grace.pooling import POOLINGS, Pooling
from grace.prompt import Prompter
from grace_training.evaluation.embedding import Embedder, Options, Shard
from grace_training.evaluation.representations import Shelf


@dataclass
class Bench:
    """A checkpoint, an engine that counts its calls, and shelves in a folder."""

    checkpoint: Checkpoint
    prompter: Prompter
    grace: Grace
    folder: Path

    @property
    def calls(self) -> int:
        engine = self.grace.engine
        assert isinstance(engine, FakeEngine)
        return engine.calls

    def shelf(self, poolings: tuple[Pooling, ...] = POOLINGS) -> Shelf:
        return Shelf(self.folder / "-".join(poolings), poolings=poolings, hidden=self.checkpoint.hidden_size)

    def embedder(self, shelf: Shelf | None = None, shard: Shard | None = None, **options: Any) -> Embedder:
        return Embedder(
            self.checkpoint,
            self.prompter,
            lambda: self.grace,
            shelf or self.shelf(),
            Options(**options),
            shard=shard,
            show_progress=False,
        )


@pytest.fixture
def bench(model_folder: Path, tmp_path: Path) -> Iterator[Bench]:
    checkpoint = Checkpoint.load(model_folder)
    prompter = Prompter(checkpoint)
    with Grace(checkpoint, prompter, lambda: FakeEngine(prompter)) as grace:
        yield Bench(checkpoint, prompter, grace, tmp_path / "shelves")
