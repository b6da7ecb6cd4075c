"""What a GRACE step costs beside a plain TRL GRPO step with a constant reward: same model, same prompts, same lengths.

    python bench/train_step.py --rounds 5 --json train_step.json

The end-of-turn token is suppressed, so both write equally many tokens. Rounds alternate; a ratio is that of the medians
of one round's steps, the first step left out. `net` leaves out the generation of the query and the negative, which
plain GRPO does not have; the target is 1.15. Seconds are those of the process on the CPU, one thread; on a GPU, where
`gpu.py` runs this at the shape of a model of 1.5 billion parameters, those on the wall.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
sys.path[0] = str(Path(__file__).parents[1])  # in place of bench/, whose http.py would hide the standard library's

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bench._shared import arguments, ratios, report, with_interval
from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_training.config import GraceConfig
from grace_training.data import Example, training_rows
from grace_training.trainer import GraceTrainer
from tests.support.models import make_model

TARGET = 1.15


def now() -> float:
    """Seconds of this process on the CPU; with a GPU seconds on the wall, once it has done what it was told."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class Clock(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.steps: list[float] = []
        self._since = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(now() - self._since)


class Plain(GRPOTrainer):  # type: ignore[misc]
    """TRL as it is, but for the prompts' token ids, which are ours: both must read the same."""

    def _tokenize_prompts(self, prompts: list[str]) -> Any:
        return [list(self.prompter.job(text).prompt_ids) for text in prompts], None, {}


def constant(completions: list[Any], **_: Any) -> list[float]:
    return [float(n % 2) for n in range(len(completions))]


def common(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": options.examples * options.rollouts,
        "num_generations": options.rollouts,
        "max_completion_length": options.tokens,
        "max_steps": options.steps + 1,
        "learning_rate": 0.0,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "log_completions": False,
        "gradient_checkpointing": False,
        "loss_type": "dapo",
        "generation_kwargs": {"suppress_tokens": [options.stop_id]},
        "beta": 0.0,
    }


def measure_plain(model: Path, prompter: Prompter, data: Dataset, folder: Path, options: Any) -> list[float]:
    clock = Clock()
    trainer = Plain(str(model), constant, GRPOConfig(**common(folder, options)), data, callbacks=[clock])
    trainer.prompter = prompter
    trainer.train()
    return clock.steps[1:]


def measure_grace(
    model: Path, prompter: Prompter, data: Dataset, folder: Path, options: Any
) -> tuple[list[float], list[float]]:
    clock, extra = Clock(), []
    config = GraceConfig(**common(folder, options), preset=options.preset)
    trainer = GraceTrainer(str(model), config, prompter, data, callbacks=[clock])
    represent = trainer.represent

    def timed(*args: Any) -> Any:
        since = now()
        try:
            return represent(*args)
        finally:
            extra.append(now() - since)

    trainer.represent = timed  # type: ignore[method-assign]
    trainer.train()
    return clock.steps[1:], extra[1:]


def measure(model: Path, options: argparse.Namespace, told: Callable[[dict[str, Any]], None]) -> None:
    """Both in turns, `options.rounds` times; `told` hears the figures after each round."""
    plain: list[float] = []  # of each round
    gross: list[float] = []
    net: list[float] = []
    prompter = Prompter(Checkpoint.load(model))
    options.stop_id = prompter.stop_ids[0]
    text = "The river rises in the hills. It runs through three towns, past mills and a market. "
    examples = [Example(f"Who built mill {n}?", f"{n}. {text}", (f"{n} is far.",), "") for n in range(64)]
    data = Dataset.from_list(training_rows(examples))
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(options.rounds):
            plain.append(statistics.median(measure_plain(model, prompter, data, Path(folder), options)))
            steps, extra = measure_grace(model, prompter, data, Path(folder), options)
            gross.append(statistics.median(steps))
            net.append(statistics.median(step - more for step, more in zip(steps, extra, strict=True)))
            told(
                {
                    "plain_step_s": statistics.median(plain),
                    "grace_step_s": statistics.median(gross),
                    "extra_generation_s": statistics.median(a - b for a, b in zip(gross, net, strict=True)),
                    **with_interval("ratio_gross", ratios(gross, plain)),
                    **with_interval("ratio_net", ratios(net, plain)),
                    "target": TARGET,
                    "rounds": round_number + 1,
                    "steps_per_round": options.steps,
                }
            )


def main() -> int:
    options = arguments(
        (__doc__ or "").splitlines()[0], rounds=5, steps=4, examples=4, rollouts=8, tokens=32, preset="improved"
    )
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        model = make_model(Path(name) / "model", hidden=128, layers=3, intermediate=256)
        measure(model, options, figures.update)
    report(figures, options.json)
    return 0 if figures["ratio_net"] <= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
