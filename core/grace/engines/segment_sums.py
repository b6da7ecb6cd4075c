"""Sums of hidden states per request and segment, kept on the device while the model runs. No vLLM in here.

Letters in shapes: T rows of one step, R requests in it, S slots (requests in flight), M segments per request,
H hidden size, V vocabulary.

A position is counted once, whatever the scheduler does: each slot has a mark, the first position not yet seen, so that
chunked prefill, pre-emption with recomputation and resumption all add the same rows. A row whose input is a stop token
past the prompt exists only because asynchronous scheduling ran one step too many: it is left out. Nothing here waits
for the device, except `read`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

_FAR = 2**31 - 1  # a position no text reaches


@dataclass(frozen=True, slots=True)
class Pooled:
    """What of a request is pooled."""

    start: int  # first pooled position
    prompt_tokens: int  # positions from here on are generated
    segment_ends: tuple[int, ...]  # end position of each segment of the prompt's pooled part, ascending


class Sums(NamedTuple):
    """What was pooled for one request, on the host."""

    sums: torch.Tensor  # (segments used, H) float32
    counts: torch.Tensor  # (segments used,) int32
    last: torch.Tensor  # (H,) float32, the state of the last pooled position


class SegmentSums:
    """Running sums for S requests.

    Row S of each table belongs to nobody: what is not to be counted goes there, since leaving rows out by a mask would
    make the host wait for the device.
    """

    def __init__(
        self,
        *,
        slots: int,
        segments: int,  # M, over a request's prompt and rationale
        rationale_segments: int,  # of these, the most that generated tokens may open
        hidden_size: int,
        vocab_size: int,
        stop_ids: Sequence[int],  # the one set that ends every request's generation
        segment_end_ids: Sequence[int],  # generated tokens after which a new segment begins
        device: torch.device,
    ) -> None:
        self._slots, self._segments, self._rationale_segments = slots, segments, rationale_segments
        self._device = device

        def table(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self._sums = table(slots * segments + 1, hidden_size, dtype=torch.float32)
        self._counts = table(slots * segments + 1, dtype=torch.int32)
        self._last = table(slots + 1, hidden_size, dtype=torch.float32)
        # Columns: start, prompt tokens, segments of the prompt, then M segment ends.
        self._layout = table(slots + 1, 3 + segments)
        self._layout[:, 0] = _FAR
        self._mark = table(slots + 1)
        self._written = table(slots + 1)  # segments of the rationale closed so far
        self._is_stop = _membership(stop_ids, vocab_size, device)
        self._ends_segment = _membership(segment_end_ids, vocab_size, device)
        self._free = list(range(slots))
        self._slot_of: dict[str, int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes on the device, nearly all of them the sums."""
        return sum(t.numel() * t.element_size() for t in (self._sums, self._last, self._layout))

    @property
    def held(self) -> int:
        """Slots in use."""
        return len(self._slot_of)

    def admit(self, requests: dict[str, Pooled]) -> int:
        """Give each request a slot with empty sums; the number of those that had one and keep it, sums and all.

        A request that comes again has been pre-empted: its mark says what of it has been added.

        Raises:
            RuntimeError: there are more requests in flight than slots.
        """
        new = {key: pooled for key, pooled in requests.items() if key not in self._slot_of}
        if not new:
            return len(requests)
        if len(new) > len(self._free):
            raise RuntimeError(f"{len(new)} requests for {len(self._free)} free slots of {self._slots}")
        slots, rows = [], []
        for key, pooled in new.items():
            slot = self._slot_of[key] = self._free.pop()
            ends = [*pooled.segment_ends, *[_FAR] * (self._segments - len(pooled.segment_ends))]
            slots.append(slot)
            rows.append([pooled.start, pooled.prompt_tokens, len(pooled.segment_ends), *ends])
        where = self._to_device(slots)
        self._layout[where] = self._to_device(rows)
        self._mark[where] = 0
        self._written[where] = 0
        self._last[where] = 0
        self._counts[:-1].view(self._slots, self._segments)[where] = 0
        self._sums[:-1].view(self._slots, self._segments, -1)[where] = 0
        return len(requests) - len(new)

    def release(self, keys: Sequence[str]) -> None:
        """Take back the slots of requests that are over; unknown keys are none of ours."""
        for key in keys:
            if (slot := self._slot_of.pop(key, None)) is not None:
                self._free.append(slot)

    def add(
        self,
        states: torch.Tensor,  # (T, H) states after the final norm, request by request
        positions: torch.Tensor,  # (T,) of each row in its request
        input_ids: torch.Tensor,  # (T,) the token each row ran
        rows: Sequence[tuple[str, int]],  # R pairs: request, and how many of the T rows are its
    ) -> None:
        """Add one step's rows. Requests that were never admitted are passed over."""
        if not self._slot_of:
            return
        slots, lengths, firsts, total = [], [], [], 0
        for key, length in rows:
            slots.append(self._slot_of.get(key, self._slots))
            lengths.append(length)
            firsts.append(total)
            total += length
        step = self._to_device([slots, lengths, firsts])  # (3, R)
        slot_r, length_r, first_r = step[0], step[1], step[2]
        slot = slot_r.repeat_interleave(length_r, output_size=total)  # (T,)
        position, token = positions[:total].long(), input_ids[:total].long()
        layout = self._layout[slot]  # (T, 3 + M)
        generated = position >= layout[:, 1]
        keep = (position >= layout[:, 0]) & (position >= self._mark[slot]) & ~(generated & self._is_stop[token])
        closes = (generated & keep & self._ends_segment[token]).long()
        closed_before = closes.cumsum(0) - closes  # in this step, earlier rows of other requests included
        own = closed_before - closed_before[first_r].repeat_interleave(length_r, output_size=total)
        in_rationale = (self._written[slot] + own).clamp(max=self._rationale_segments - 1)
        in_prompt = (position[:, None] >= layout[:, 3:]).sum(dim=1)
        segment = torch.where(generated, layout[:, 2] + in_rationale, in_prompt)
        # A segment past the table can only be a row that is not kept.
        index = torch.where(keep, slot * self._segments + segment, self._slots * self._segments)
        wide = states[:total].float()
        self._sums.index_add_(0, index, wide)
        self._counts.index_add_(0, index, torch.ones_like(index, dtype=torch.int32))
        self._written.index_add_(0, slot, closes)
        self._mark.scatter_reduce_(0, slot, position + 1, "amax")
        final = first_r + length_r - 1
        self._last[slot_r] = torch.where(keep[final, None], wide[final], self._last[slot_r])

    def read(self, keys: Sequence[str]) -> dict[str, Sums]:
        """Copy the sums of these requests to the host, without the segments that nothing was added to at the end."""
        # vLLM may read in another thread than it releases an aborted request in: look each up once.
        slots = {key: slot for key in keys if (slot := self._slot_of.get(key)) is not None}
        if not slots:
            return {}
        where = self._to_device(list(slots.values()))
        sums = self._sums[:-1].view(self._slots, self._segments, -1)[where].cpu()
        counts = self._counts[:-1].view(self._slots, self._segments)[where].cpu()
        last = self._last[where].cpu()
        read = {}
        for i, key in enumerate(slots):
            filled = counts[i].nonzero()
            used = int(filled[-1]) + 1 if len(filled) else 0
            read[key] = Sums(sums[i, :used], counts[i, :used], last[i])
        return read

    def _to_device(self, values: Sequence[int] | Sequence[Sequence[int]]) -> torch.Tensor:
        host = torch.tensor(values, dtype=torch.int64)
        if self._device.type == "cpu":
            return host
        return host.pin_memory().to(self._device, non_blocking=True)


def _membership(ids: Sequence[int], size: int, device: torch.device) -> torch.Tensor:
    """(V,) bool: which ids are in the set."""
    table = torch.zeros(size, dtype=torch.bool, device=device)
    table[torch.tensor([i for i in ids if i < size], dtype=torch.int64, device=device)] = True
    return table
