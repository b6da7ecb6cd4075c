"""A checkpoint that carries word vectors past its layers still does after training, whatever the rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from grace.checkpoint import BUNDLED_NAME, Checkpoint
from grace.prompt import Prompter
from grace_training.baselines.train import Baseline
from grace_training.carried import carried_channels, keep_carried
from tests.training.conftest import MakeTrainer

CARRIED = 8
RATE = 0.01  # a thousand times what is usual


SETTINGS = [{}, {"gradient_checkpointing": True}, {"joint_weight": 0.5}, {"joint_weight": 0.5, "lora": True}]


def carrying(folder: Path) -> Any:
    """The tiny model, as if it carried something in its last channels."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight[-CARRIED:] = 0
    return model


def test_the_bundled_model_carries_its_word_vectors_and_an_ordinary_one_nothing(model_folder: Path) -> None:
    bundled = AutoModelForCausalLM.from_pretrained(Checkpoint.load(BUNDLED_NAME).folder)
    silent = carried_channels(bundled)
    assert silent is not None
    assert silent.nonzero().flatten().tolist() == list(range(256, 384))
    assert carried_channels(AutoModelForCausalLM.from_pretrained(model_folder)) is None
    assert keep_carried(AutoModelForCausalLM.from_pretrained(model_folder)) == 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_nothing_is_written_to_carried_channels(
    make_trainer: MakeTrainer, model_folder: Path, settings: dict[str, bool]
) -> None:
    settings = dict(settings)
    lora = settings.pop("lora", False)
    peft = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=True) if lora else None
    trainer = make_trainer(model=carrying(model_folder), learning_rate=RATE, peft_config=peft, **settings)
    trainer.train()
    model: Any = trainer.model.merge_and_unload() if lora else trainer.model
    silent = carried_channels(model)
    assert silent is not None
    assert silent.sum() == CARRIED
    written = model.model.layers[0].mlp.down_proj.weight[:-CARRIED]
    first = carrying(model_folder).model.layers[0].mlp.down_proj.weight[:-CARRIED]
    assert not torch.equal(written, first), "the others were trained"


@pytest.mark.parametrize("method", ["contrastive", "simcse"])
def test_the_baselines_write_nothing_there_either(method: str, tmp_path: Path) -> None:
    prompter = Prompter(Checkpoint.load(BUNDLED_NAME))
    baseline = Baseline(method, prompter, dropout=0.1)  # type: ignore[arg-type]
    ids = torch.tensor([[5, 6, 7, 8]])
    baseline.model(input_ids=ids, labels=ids).loss.backward()
    for layer in baseline.model.model.layers:
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            assert weight.grad[256:].abs().max() == 0
            assert weight.grad[:256].abs().max() > 0
