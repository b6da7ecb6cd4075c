"""Channels of the stream that no layer writes to, kept so in training.

The bundled model carries word vectors from the embedding to the final norm in channels of their own, where the output
matrices of every layer have rows of zeros. The final norm makes those channels thousands of times larger, so that one
step of an optimiser that moves every weight alike would drown what they carry: all texts get one vector. A model
without such channels, which is nearly every other one, is trained as it was.

H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from torch import Tensor, nn

log = logging.getLogger(__name__)

WRITERS = ("o_proj", "down_proj")  # what adds to the stream, in the architectures that take Llama's names


def carried_channels(model: nn.Module) -> Tensor | None:
    """Mask [H] of the channels whose row is zero in every layer's output matrices; None where there are none."""
    silent: Tensor | None = None
    for name, weight in _writers(model):
        if "lora_" in name:
            continue
        if not weight.numel():
            log.info("weights are partitioned: channels that no layer writes to cannot be told, and are trained")
            return None
        rows = weight.detach().abs().amax(dim=1) == 0
        silent = rows if silent is None else silent & rows
    return silent if silent is not None and bool(silent.any()) else None


def keep_carried(model: nn.Module) -> int:
    """Let no gradient step write to the carried channels, LoRA's included; returns how many there are.

    To be called before the model is wrapped. Sharding that replaces parameters (FSDP2) loses the hooks, and
    partitioned weights (ZeRO-3) show no channels.
    """
    silent = carried_channels(model)
    if silent is None:
        return 0
    kept = ~silent
    for name, weight in _writers(model):
        if weight.requires_grad and "lora_A" not in name:
            weight.register_hook(lambda gradient: gradient * kept.to(gradient).unsqueeze(1))  # type: ignore[no-untyped-call]
    count = int(silent.sum())
    log.info("%d of %d channels are written by no layer and stay so", count, len(silent))
    return count


def _writers(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and any(f".{writer}." in name for writer in WRITERS):
            yield name, parameter
