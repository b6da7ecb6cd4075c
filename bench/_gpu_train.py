"""A training step beside plain TRL's, at the shape of a model of 1.5 billion parameters: a part of `gpu.py`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench._gpu_speed import SHAPE_1B5, SHAPE_SMALL, made_up
from bench._parts import Asked


async def train_step(asked: Asked) -> None:
    """All weights trained, in bfloat16 over float32; both write by Transformers' `generate`."""
    import torch

    from bench.train_step import measure

    with tempfile.TemporaryDirectory() as folder:
        with_weights(Path(folder), SHAPE_SMALL if asked.small else SHAPE_1B5)
        options = argparse.Namespace(examples=4, rollouts=8, preset="improved", rounds=2, steps=2, tokens=64)
        if asked.small:
            options.rounds, options.tokens = 1, 8
        rows = options.examples * options.rollouts
        measure(Path(folder), options, lambda found: asked.figures(**found, rows=rows, tokens=options.tokens))
    if torch.cuda.is_available():
        asked.figures(peak_memory_gib=torch.cuda.max_memory_allocated() / 2**30)


def with_weights(folder: Path, shape: dict[str, Any]) -> None:
    """What `made_up` makes, with random weights in bfloat16 that can be trained."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    made_up(folder, shape)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder)), dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
