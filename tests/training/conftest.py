"""Nothing here may reach the network, and nothing may be reported."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1")

import pytest
import torch
from datasets import Dataset

from grace.checkpoint import Checkpoint
from grace.engines.transformers import TransformersEngine
from grace.prompt import Prompter
from grace_training.config import GraceConfig
from grace_training.data import Example, training_rows
from grace_training.trainer import GraceTrainer
from tests.support.models import make_model

torch.set_num_threads(1)

WORDS = ("river", "mill", "bridge", "market", "harbour", "mason", "hill", "town", "sea", "guild")
MakeTrainer = Callable[..., GraceTrainer]


def examples(count: int = 12, *, supervised: bool = True, negatives: int = 1) -> list[Example]:
    """Made-up examples whose query and positive share a word."""
    made = []
    for n in range(count):
        word, other = WORDS[n % len(WORDS)], WORDS[(n + 3) % len(WORDS)]
        wrong = tuple(f"The {other} is far from here, number {n} of {m}." for m in range(negatives))
        made.append(
            Example(
                f"Who built the {word} {n}?" if supervised else None,
                f"The {word} {n} was built by a guild.",
                wrong if supervised else (),
                f"made:{n}",
            )
        )
    return made


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The stop token wins now and then, so that both kinds of rationale occur: ended, and cut off.
    return make_model(tmp_path_factory.mktemp("models") / "tiny", stop_bias=3.0)


@pytest.fixture(scope="session")
def prompter(model_folder: Path) -> Prompter:
    return Prompter(Checkpoint.load(model_folder))


@pytest.fixture
def make_trainer(model_folder: Path, prompter: Prompter, tmp_path: Path) -> MakeTrainer:
    def make(
        *,
        data: list[Example] | None = None,
        held_out: list[Example] | None = None,
        peft_config: Any = None,
        model: Any = None,
        **settings: Any,
    ) -> GraceTrainer:
        args = make_config(tmp_path / "run", **settings)
        rows = training_rows(data or examples(supervised=args.objective == "supervised"), symmetric=args.symmetric)
        return GraceTrainer(
            model or str(model_folder), args, prompter, Dataset.from_list(rows), held_out, peft_config=peft_config
        )

    return make


@pytest.fixture
def words(tmp_path: Path, model_folder: Path) -> list[str]:
    rows = [{"query": e.query, "positive": e.positive, "negative": list(e.negatives)} for e in examples(12)]
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps(row) + "\n" for row in rows[:4]), encoding="utf-8")
    settings = {
        "model": model_folder,
        "data": data,
        "eval_data": held,
        "output_dir": tmp_path / "run",
        "max_steps": 2,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 10,
        "max_input_tokens": 64,
        "use_cpu": True,
        "save_steps": 1,
        "learning_rate": "1e-3",
        "gradient_checkpointing": False,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def embed(folder: Path, text: str, mode: Any) -> Any:
    """Its representation of one text, by the engine that serves it."""

    async def run() -> Any:
        checkpoint = Checkpoint.load(folder)
        prompter = Prompter(checkpoint)
        engine = TransformersEngine(checkpoint, prompter)
        await engine.start()
        try:
            return await engine.represent(prompter.job(text, mode=mode))
        finally:
            await engine.close()

    return asyncio.run(run())


def make_config(folder: Path, **settings: Any) -> GraceConfig:
    """Two steps of two groups of four rollouts, on the CPU."""
    base: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 10,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "log_completions": False,
        "gradient_checkpointing": False,
        "seed": 7,
    }
    return GraceConfig(**{**base, **settings})


def built_by(trainer: GraceTrainer) -> list[list[int]]:
    """The examples of each batch that a trainer builds from now on, as it builds them."""
    build, built = trainer._build, list[list[int]]()

    def listening(rows: list[Any]) -> Any:
        built.append([row["example"] for row in rows])
        return build(rows)

    trainer._build = listening  # type: ignore[method-assign]
    return built
