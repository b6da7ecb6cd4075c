"""Inner products of states with a vector that came with the request, on the device while the model runs. No vLLM here.

This is how the score of one text is told token by token: its prompt and rationale are run once more as a prompt, with
the other text's vector as the probe. Requests without a probe cost nothing.

Letters in shapes: T rows of one step, P prompt tokens of a request, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    vector: torch.Tensor  # (H,) float32
    start: int  # first pooled position
    dots: torch.Tensor  # (P + 1,) float32 by position; the last is for rows that are past the prompt


class Probes:
    """What the requests in flight are probed with. Only positions of the prompt are kept."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._probes: dict[str, _Probe] = {}

    def admit(self, key: str, vector: bytes, *, start: int, prompt_tokens: int) -> None:
        """Note a request's probe, (H,) float32 as bytes; one that comes again after pre-emption keeps what it has."""
        if key in self._probes:
            return
        host = torch.frombuffer(bytearray(vector), dtype=torch.float32)
        dots = torch.zeros(prompt_tokens + 1, dtype=torch.float32, device=self._device)
        self._probes[key] = _Probe(host.to(self._device), start, dots)

    def release(self, keys: Sequence[str]) -> None:
        """Forget requests that are over; unknown keys are none of ours."""
        for key in keys:
            self._probes.pop(key, None)

    def add(
        self,
        states: torch.Tensor,  # (T, H) states after the final norm, request by request
        positions: torch.Tensor,  # (T,) of each row in its request
        rows: Sequence[tuple[str, int]],  # request, and how many of the T rows are its
    ) -> None:
        """Take one step's inner products. A position that is run twice is written twice: nothing is summed here."""
        if not self._probes:
            return
        first = 0
        for key, length in rows:
            if (probe := self._probes.get(key)) is not None:
                here = slice(first, first + length)
                place = positions[here].long().clamp(max=len(probe.dots) - 1)
                probe.dots.index_copy_(0, place, states[here].float() @ probe.vector)
            first += length

    def held(self) -> dict[str, torch.Tensor]:
        """(pooled tokens,) inner products so far of each request that has a probe, on the device."""
        return {key: probe.dots[probe.start : -1] for key, probe in self._probes.items()}
