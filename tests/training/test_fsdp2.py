"""FSDP2 in two processes (gloo): hooks pool, rollouts are written, and the checkpoint is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.launching import assert_whole, launch


@pytest.mark.slow
def test_fsdp2_trains_pools_and_saves_a_whole_checkpoint(tmp_path: Path, model_folder: Path) -> None:
    program = str(Path(__file__).with_name("fsdp2_on_cpu.py"))
    run = launch("fsdp2", [program], tmp_path, model_folder, use_cpu=True)
    assert (run / "checkpoint-2" / "pytorch_model_fsdp.bin").exists()  # it was FSDP, not DDP
    assert_whole(run / "final", model_folder)
