"""Rollouts by vLLM in the trainer's own process, on a CPU: weights in step, states from the log-prob pass."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.support.forked import forked_script

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
    log = tmp_path / "log"
    script = Path(__file__).with_name("vllm_colocate.py")
    process = forked_script(script, [str(model_folder), str(tmp_path)], ENVIRONMENT, log=log)
    process.join(400)
    process.kill()  # if it still runs
    process.join()
    assert process.exitcode == 0, log.read_text()[-4000:]
