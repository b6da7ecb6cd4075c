"""The configurations of deploy/accelerate are what accelerate reads, and say what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

FOLDER = Path(__file__).parents[2] / "deploy" / "accelerate"
TYPES = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_reads_it(name: str) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert str(config.distributed_type).endswith(TYPES[name])
    assert config.mixed_precision == "bf16"
    if name == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"  # or `final` would hold shards
    if name.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(name[-1])
        assert config.deepspeed_config["deepspeed_multinode_launcher"] == "standard"  # or one node starts the others
        assert name == "zero2" or config.deepspeed_config["zero3_save_16bit_model"]  # or no whole model is saved


def test_none_is_forgotten() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TYPES)
