"""vLLM's own worker, with blocks of the key-value cache as small as ours: what both arms of a comparison run on."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker

from grace.engines import vllm_worker  # its import lists the small blocks

assert vllm_worker


class PlainWorker(CPUWorker):
    """Sums nothing."""
