"""DeepSpeed's ZeRO in two processes (gloo), where DeepSpeed is installed: grace-train does not depend on it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.training.launching import assert_whole, launch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where DeepSpeed compiles its shared-memory collectives: a build cut off in the usual place locks it for ever."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or tmp_path_factory.mktemp("built"))


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_zero_trains_pools_and_saves_a_whole_checkpoint(
    name: str, tmp_path: Path, model_folder: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(built))
    run = launch(name, ["-m", "grace_training.cli"], tmp_path, model_folder, ddp_backend="gloo")
    assert list((run / "checkpoint-2").glob("global_step2/*zero_pp_rank_1*"))  # it was ZeRO, not DDP
    assert_whole(run / "final", model_folder)
