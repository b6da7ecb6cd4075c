"""Our worker with the sums of a GPU, on a CPU: the same arithmetic, in the real engine."""

from __future__ import annotations

from typing import Any

from grace.engines.segment_sums import SegmentSums
from grace.engines.vllm_worker import GraceWorker


class DeviceSumsWorker(GraceWorker):
    """For tests of what a GPU runs."""

    def _make_sums(self, known: dict[str, Any]) -> SegmentSums:
        return self._device_sums(known)
