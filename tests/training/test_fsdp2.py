"""FSDP2 in two processes (gloo): hooks pool, rollouts are written, and the checkpoint is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from grace.checkpoint import Checkpoint
from tests.training.conftest import examples

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_fsdp2_trains_pools_and_saves_a_whole_checkpoint(tmp_path: Path, model_folder: Path) -> None:
    """`forward` pools in the backbone called by itself, the joint loss in its own pass: both meet shards."""
    data = tmp_path / "train.jsonl"
    rows = [{"query": e.query, "positive": e.positive, "negative": list(e.negatives)} for e in examples(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "model": model_folder,
        "data": data,
        "eval_data": data,
        "output_dir": tmp_path / "run",
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
        "use_cpu": True,
    }
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launch += ["--config_file", str(ROOT / "deploy" / "accelerate" / "fsdp2.yaml")]
    launch += ["--mixed_precision", "no", "--num_processes", "2", str(ROOT / "tests" / "training" / "fsdp2_on_cpu.py")]
    done = subprocess.run(
        [*launch, *[f"{key}={value}" for key, value in settings.items()]],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoint-2" / "pytorch_model_fsdp.bin").exists()  # it was FSDP, not DDP
    final = Checkpoint.load(tmp_path / "run" / "final")
    assert final.config.provenance["scores"]
    before, after = load_file(model_folder / "model.safetensors"), load_file(final.folder / "model.safetensors")
    assert {name: tensor.shape for name, tensor in after.items()} == {n: t.shape for n, t in before.items()}
    assert any(not torch.equal(after[name], before[name]) for name in before)
    _, report = AutoModelForCausalLM.from_pretrained(final.folder, output_loading_info=True)
    assert not report["missing_keys"]
