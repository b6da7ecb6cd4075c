"""Two processes (gloo) give the rewards and advantages of one, for the same rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.forked import forked_script
from tests.support.ports import free_port

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.mark.slow
def test_two_processes_give_the_rewards_of_one(tmp_path: Path, model_folder: Path) -> None:
    port = str(free_port())
    for world in (1, 2):
        started = []
        for rank in map(str, range(world)):
            variables = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
            if world > 1:
                variables |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
                variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            log = tmp_path / f"log{world}{rank}"
            arguments = [str(model_folder), str(tmp_path), str(world)]
            started.append((forked_script(SCRIPT, arguments, variables, log=log), log))
        try:
            for process, log in started:
                process.join(300)
                assert process.exitcode == 0, log.read_text()[-3000:]
        finally:
            for process, _ in started:
                process.kill()
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    for algorithm, (rewards, advantages) in one.items():
        torch.testing.assert_close(two[algorithm][0], rewards, atol=1e-5, rtol=0)
        torch.testing.assert_close(two[algorithm][1], advantages, atol=1e-5, rtol=0)
