"""Rollouts by vLLM in the trainer's own process, on a CPU: weights in step, states from the log-prob pass."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_writes_with_the_weights_of_the_policy(tmp_path: Path, model_folder: Path) -> None:
    script = Path(__file__).parent / "vllm_colocate.py"
    command = [sys.executable, str(script), str(model_folder), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
