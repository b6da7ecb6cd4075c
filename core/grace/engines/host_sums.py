"""The sums of `segment_sums.py` where the states lie on the host already: on a CPU.

There a step of a small model takes a few milliseconds, in which two dozen small tensor operations are felt. What is
counted is the same, row by row. No vLLM in here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from grace.engines.segment_sums import Pooled, Sums


class _Held:
    """One request's sums."""

    __slots__ = ("counts", "last", "mark", "pooled", "sums", "written")

    def __init__(self, pooled: Pooled, segments: int, hidden_size: int) -> None:
        self.pooled = pooled
        self.sums = np.zeros((segments, hidden_size), dtype=np.float32)
        self.counts = np.zeros(segments, dtype=np.int32)
        self.last = np.zeros(hidden_size, dtype=np.float32)
        self.mark = pooled.start  # first position not yet seen
        self.written = 0  # segments of the rationale closed so far


class HostSums:
    """Running sums of any number of requests; the same promises as `SegmentSums`."""

    def __init__(
        self,
        *,
        segments: int,  # M, over a request's prompt and rationale
        rationale_segments: int,  # of these, the most that generated tokens may open
        hidden_size: int,
        stop_ids: Sequence[int],  # the one set that ends every request's generation
        segment_end_ids: Sequence[int],  # generated tokens after which a new segment begins
    ) -> None:
        self._segments, self._rationale_segments, self._hidden_size = segments, rationale_segments, hidden_size
        self._stops, self._segment_ends = frozenset(stop_ids), frozenset(segment_end_ids)
        self._held: dict[str, _Held] = {}

    @property
    def held(self) -> int:
        """Requests that hold sums."""
        return len(self._held)

    def admit(self, requests: dict[str, Pooled]) -> int:
        """Begin empty sums for each request; the number of those that had some already and keep them."""
        new = {key: pooled for key, pooled in requests.items() if key not in self._held}
        self._held |= {key: _Held(pooled, self._segments, self._hidden_size) for key, pooled in new.items()}
        return len(requests) - len(new)

    def release(self, keys: Sequence[str]) -> None:
        """Forget requests that are over; unknown keys are none of ours."""
        for key in keys:
            self._held.pop(key, None)

    def add(
        self,
        states: torch.Tensor,  # (T, H) states after the final norm, request by request
        positions: torch.Tensor,  # (T,) of each row in its request
        input_ids: torch.Tensor,  # (T,) the token each row ran
        rows: Sequence[tuple[str, int]],  # R pairs: request, and how many of the T rows are its
    ) -> None:
        """Add one step's rows. Requests that were never admitted are passed over."""
        if not self._held:
            return
        total = sum(length for _, length in rows)
        values = states[:total].float().numpy()
        where, tokens = positions[:total].tolist(), input_ids[:total].tolist()
        first = 0
        for key, length in rows:
            if (held := self._held.get(key)) is not None:
                # Rows of one request lie at consecutive positions.
                self._add(held, where[first], values[first : first + length], tokens[first : first + length])
            first += length

    def _add(self, held: _Held, begin: int, values: npt.NDArray[np.float32], tokens: list[int]) -> None:
        end, ends = begin + len(tokens), held.pooled.segment_ends
        position = max(held.mark, begin)
        held.mark = max(held.mark, end)
        kept = begin  # one past the last position that was added
        prompt_end = min(end, held.pooled.prompt_tokens)
        while position < prompt_end:
            segment = bisect_right(ends, position)
            kept = min(prompt_end, ends[segment])
            held.sums[segment] += values[position - begin : kept - begin].sum(axis=0)
            held.counts[segment] += kept - position
            position = kept
        for row in range(position - begin, len(tokens)):
            token = tokens[row]
            if token in self._stops:
                continue  # a step too many: its request has ended
            segment = len(ends) + min(held.written, self._rationale_segments - 1)
            held.sums[segment] += values[row]
            held.counts[segment] += 1
            held.written += token in self._segment_ends
            kept = begin + row + 1
        if kept == end:
            held.last[:] = values[-1]

    def read(self, keys: Sequence[str]) -> dict[str, Sums]:
        """The sums of these requests, without the segments that nothing was added to at the end."""
        read = {}
        for key in keys:
            if (held := self._held.get(key)) is not None:
                filled = np.flatnonzero(held.counts)
                used = int(filled[-1]) + 1 if len(filled) else 0
                sums, counts, last = held.sums[:used], held.counts[:used], held.last
                read[key] = Sums(*(torch.from_numpy(array.copy()) for array in (sums, counts, last)))
        return read
