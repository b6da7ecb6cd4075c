"""The scheduler's part: a finished request takes its sums along, and no pooled position is read from the cache."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from grace.engines.vllm_worker import OUTPUT_ATTRIBUTE, REQUEST_KEY


class _WithSums:
    """Mixed into vLLM's schedulers, in front of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _end_with_the_parent()
        manager: Any = self.kv_cache_manager  # type: ignore[attr-defined]
        look_up = manager.get_computed_blocks
        # Hashes may be finer than blocks: the cap counts hashes.
        hash_size = getattr(self, "hash_block_size", None) or self.block_size  # type: ignore[attr-defined]

        def look_up_before_the_text(request: Any, *more: Any, **named: Any) -> Any:
            """Cached positions do not run, so they have no states: read the cache up to the first pooled one only."""
            spans = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(REQUEST_KEY)
            if spans is None:
                return look_up(request, *more, **named)
            hashes = request.block_hashes
            request.block_hashes = hashes[: spans[0] // hash_size]
            try:
                return look_up(request, *more, **named)
            finally:
                request.block_hashes = hashes

        manager.get_computed_blocks = look_up_before_the_text

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Keep the books as vLLM does, then hand on the sums of those that finished, beside their last token."""
        outputs = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        sums: dict[str, dict[str, Any]] = getattr(model_runner_output, OUTPUT_ATTRIBUTE, {})
        if sums:
            for group in outputs.values():
                for output in group.outputs:
                    if output.finish_reason is not None and output.request_id in sums:
                        output.kv_transfer_params = sums[output.request_id]
        return outputs


def _end_with_the_parent() -> None:
    """Let this process, the engine's, be killed when the one that asks it is gone, however that ended.

    vLLM's engine waits for requests for ever: after a kill -9 of the service it would keep its memory, a GPU's too, and
    the next start would find none. Its workers notice the engine's end by themselves.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


class GraceScheduler(_WithSums, Scheduler):
    """Without asynchronous scheduling."""


class GraceAsyncScheduler(_WithSums, AsyncScheduler):
    """With asynchronous scheduling; vLLM does not notice a scheduler of the other kind, so the choice is ours."""
