"""The shape of grace-tiny, and the saving and loading of its training state."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from grace_training.tiny.tokenizer import END_OF_TEXT, TURN_END, mark_id

log = logging.getLogger(__name__)

CONTEXT = 1024  # tokens
WAIT_S = 0.5  # between looks at a stage that is waited for
STEP_CAP_S = 15.0  # a step counts as at most this: a stopped process or a compilation must not eat the budget


@dataclass(frozen=True)
class Shape:
    """What differs between the model that learns language and the one that also carries word vectors."""

    hidden: int
    heads: int
    tied: bool  # whether the head is the embedding
    kv_heads: int = 2
    head_size: int = 64  # vLLM's CPU attention takes 32 or 64 but not 16
    layers: int = 5
    inner: int = 640  # of the feed-forward part


NARROW = Shape(hidden=256, heads=4, tied=True)  # 5.5 M parameters, until `widen.py`
WIDE = Shape(hidden=384, heads=6, tied=False)  # 12.0 M, from there on


def build(marks: Tokenizer, shape: Shape) -> Qwen2ForCausalLM:
    """A freshly initialised Qwen2: the architecture is one that every engine serves."""
    config = Qwen2Config(
        vocab_size=marks.get_vocab_size(),
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=shape.tied,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=mark_id(marks, TURN_END),
        pad_token_id=mark_id(marks, END_OF_TEXT),
        use_cache=False,
    )
    return Qwen2ForCausalLM(config)


def restore(marks: Tokenizer, weights: dict[str, Tensor]) -> Qwen2ForCausalLM:
    """The model that these weights are of, in the shape that they have."""
    width = weights["model.norm.weight"].numel()
    shape = next(shape for shape in (NARROW, WIDE) if shape.hidden == width)
    layers = sum(name.endswith("gate_proj.weight") for name in weights)
    inner = len(weights["model.layers.0.mlp.gate_proj.weight"])
    network = build(marks, replace(shape, layers=layers, inner=inner))
    network.load_state_dict(weights)
    return network


def average(*weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of weights that were trained one from another: it reads better than each of them."""
    return {name: sum((one[name] for one in weights[1:]), weights[0][name]) / len(weights) for name in weights[0]}


def states(model: Qwen2ForCausalLM, ids: Tensor) -> Tensor:
    """States [B, T, H] after the final norm. Rows are padded on the right, so the causal mask alone is exact."""
    hidden: Tensor = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


class Clock:
    """Training time against a budget: learning rates follow it, so the decay always completes.

    Steps are timed, each counted as at most `STEP_CAP_S`; time spent elsewhere (saving, a stopped process) is free.
    """

    def __init__(self, minutes: float, spent_s: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self.budget_s = 60.0 * minutes
        self.spent_s = spent_s
        self._now = now
        self._started = now()

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 when the budget is spent."""
        return min(1.0, self.spent_s / self.budget_s)

    def start(self) -> None:
        """A step begins."""
        self._started = self._now()

    def stop(self) -> float:
        """A step ended; returns its uncapped seconds."""
        took = self._now() - self._started
        self.spent_s += min(took, STEP_CAP_S)
        return took


def trapezoid(progress: float, *, warm_up: float, decay_from: float) -> float:
    """Learning-rate factor: linear up to 1, flat, linear down to 0 at the end of the budget."""
    if progress < warm_up:
        return max(progress / warm_up, 0.02)
    if progress < decay_from:
        return 1.0
    return (1.0 - progress) / (1.0 - decay_from)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a training state so that a reader sees the old file or the new one, never a half."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The last saved state, or None before the first."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def ended(path: Path) -> bool:
    """Whether a stage has spent its time, by what it saved last."""
    state = load_state(path)
    return state is not None and bool(state.get("over"))


def spent(state: dict[str, Any]) -> dict[str, Any]:
    """How long a stage was trained, and on what."""
    return {"steps": state["step"], "minutes": round(state["spent_s"] / 60, 1), "device": state.get("device", "cpu")}


def start(work: Path, *stages: str, wait: bool = False) -> dict[str, Any]:
    """What the first of these stages that has saved a state left: the weights that the next one starts from.

    With `wait`, what the first of all leaves at its end, and not before.
    """
    if wait:
        stages = stages[:1]
        while not ended(work / f"{stages[0]}.pt"):
            time.sleep(WAIT_S)
    for stage in stages:
        if (state := load_state(work / f"{stage}.pt")) is not None:
            log.info("from %s, step %d", stage, state["step"])
            return state
    raise SystemExit(f"nothing to start from in {work}: run grace_training.tiny.{stages[-1]} first")
