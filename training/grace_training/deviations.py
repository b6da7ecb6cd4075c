"""What a run does otherwise than the paper says, in words for its model card. docs/paper.md has the reasons."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from grace_training.config import GraceConfig
from grace_training.presets import RewardSettings

# As published (GRACE, arXiv 2510.04506). Batch size is compared apart: TRL counts rollouts, the paper examples.
PUBLISHED: dict[str, Any] = {
    "algorithm": "grpo",
    "num_generations": 8,
    "num_negatives": 1,
    "temperature": 1.0,
    "learning_rate": 1e-6,
    "weight_decay": 0.01,
    "epsilon": 0.2,
    "beta": 0.0,
    "max_grad_norm": 1.0,
    "max_input_tokens": 1024,
    "max_completion_length": 2048,
    "num_iterations": 1,
    "pooling": "mean",
    "scale_advantage": False,
    "symmetric": False,
    "joint_weight": 0.0,
    "overlong_filter": False,
    "kl_coefficient": 0.0,
}
EXAMPLES = 64  # B
ALWAYS = (
    "the last sampled token is not pooled, for it never runs through the model",
    "groups are examples, not equal prompts",
)


def deviations(args: GraceConfig, processes: int = 1) -> list[str]:
    """One line each; those of every run last."""
    found = [
        f"`{name}` is {getattr(args, name)}, published {value}"
        for name, value in PUBLISHED.items()
        if getattr(args, name) != value
    ]
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * processes // args.num_generations
    if batch != EXAMPLES:
        found.append(f"{batch} examples in an update, published {EXAMPLES}")
    updates = args.steps_per_generation // args.gradient_accumulation_steps
    if updates > 1:
        found.append(f"{updates} updates from one generation, published 1")
    published = asdict(RewardSettings())
    found += [
        f"`reward.{name}` is {value}, published {published[name]}"
        for name, value in asdict(args.reward_settings()).items()
        if value != published[name]
    ]
    return [*found, *ALWAYS]
