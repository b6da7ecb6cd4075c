"""grace-train in two processes under one of deploy/accelerate's configurations, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grace.checkpoint import Checkpoint
from tests.training.conftest import examples

ROOT = Path(__file__).parents[2]


def launch(name: str, program: list[str], folder: Path, model: Path, **more: object) -> Path:
    """Two steps of ReMax with the joint gradient, pooled in a pass of their own; the run's folder.

    `forward` pools in the backbone called by itself, the joint loss in its own pass: both meet weights in parts.
    """
    data = folder / "train.jsonl"
    rows = [{"query": e.query, "positive": e.positive, "negative": list(e.negatives)} for e in examples(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "model": model,
        "data": data,
        "eval_data": data,
        "output_dir": folder / "run",
        "preset": "improved",
        "algorithm": "remax",
        "pool_in": "forward",
        "joint_weight": 0.1,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 10,
        "max_input_tokens": 64,
        "max_steps": 2,
        "save_steps": 2,
        "learning_rate": "1e-3",
        "gradient_checkpointing": True,
        **more,
    }
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    command += ["--config_file", str(ROOT / "deploy" / "accelerate" / f"{name}.yaml")]
    command += ["--mixed_precision", "no", "--num_processes", "2", "--main_process_port", "0", *program]
    done = subprocess.run(
        [*command, *[f"{key}={value}" for key, value in settings.items()]],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def assert_whole(final: Path, base: Path) -> None:
    """The finished checkpoint holds every weight, in the shape it had, and has learned."""
    assert Checkpoint.load(final).config.provenance["scores"]
    before, after = load_file(base / "model.safetensors"), load_file(final / "model.safetensors")
    assert {name: tensor.shape for name, tensor in after.items()} == {n: t.shape for n, t in before.items()}
    assert any(not torch.equal(after[name], before[name]) for name in before)
    _, report = AutoModelForCausalLM.from_pretrained(final, output_loading_info=True)
    assert not report["missing_keys"]
