"""Run by test_distributed.py, once alone and once as two processes: rewards and advantages of fixed rollouts."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from datasets import Dataset

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace.representation import Job
from grace_training.data import training_rows
from grace_training.rollouts import Drawn, Written
from grace_training.trainer import GraceTrainer
from tests.training.conftest import examples, make_config

EXAMPLES, K = 4, 4


def trainer_of(folder: Path, out: Path, algorithm: str, world: int) -> GraceTrainer:
    size = EXAMPLES * K // world
    args = make_config(out, preset="improved", algorithm=algorithm, per_device_train_batch_size=size, max_steps=1)
    rows = training_rows(examples(EXAMPLES))
    return GraceTrainer(str(folder), args, Prompter(Checkpoint.load(folder)), Dataset.from_list(rows))


def paid(trainer: GraceTrainer, *, greedy: bool) -> tuple[Any, Any]:
    rank, B = trainer.accelerator.process_index, EXAMPLES // trainer.accelerator.num_processes
    draw = random.Random(0)

    def written(jobs: list[Job]) -> Written:
        """Made-up rationales, of all examples in order, of which this process takes its own; pooled by the model."""
        # Some of them at the limit of ten tokens, cut off.
        whole = [[draw.randrange(10, 60) for _ in range(3 + n % 8)] for n in range(len(jobs) // B * EXAMPLES)]
        mine = whole[rank * len(jobs) : (rank + 1) * len(jobs)]
        return Written(mine, trainer._states_of(jobs, mine, None))

    trainer._batch = batch = trainer._build(training_rows(examples(EXAMPLES))[rank * B : (rank + 1) * B])
    rollouts, anchors, negatives = map(written, (batch.rollout_jobs, batch.anchor_jobs, batch.negative_jobs))
    trainer._drawn = Drawn(rollouts, anchors, negatives, written(batch.jobs) if greedy else None)
    rewards = trainer._calculate_rewards(None, None, None, None)
    advantages = trainer._advantages({"completion_mask": torch.ones(B * K, 3)})
    return rewards, trainer.accelerator.gather(advantages)


def main(folder: Path, out: Path, world: int) -> None:
    results = {}
    for algorithm in ("grpo", "reinforce++", "remax"):
        trainer = trainer_of(folder, out, algorithm, world)
        results[algorithm] = paid(trainer, greedy=algorithm == "remax")
    trainer_of(folder, out, "dapo", world).train()  # and a real step runs, the processes in step
    if trainer.accelerator.is_main_process:
        torch.save(results, out / f"{world}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
