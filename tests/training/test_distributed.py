"""Two processes (gloo) give the rewards and advantages of one, for the same rollouts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.mark.slow
def test_two_processes_give_the_rewards_of_one(tmp_path: Path, model_folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for world in (1, 2):
        command = [sys.executable, str(SCRIPT), str(model_folder), str(tmp_path), str(world)]
        if world > 1:
            launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
            command = [sys.executable, *launch, *command[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    for algorithm, (rewards, advantages) in one.items():
        torch.testing.assert_close(two[algorithm][0], rewards, atol=1e-5, rtol=0)
        torch.testing.assert_close(two[algorithm][1], advantages, atol=1e-5, rtol=0)
