"""The scheduler's part: a finished request takes its sums along, no pooled position is read from the cache, and tokens
that nobody waits for are not sent one by one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import Any

from vllm.sampling_params import RequestOutputKind
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from grace.engines.vllm_worker import OUTPUT_ATTRIBUTE, REQUEST_KEY

_STATS_S = 0.1  # seconds between two reports of vLLM's gauges
_SENT = "grace_sent"  # on vLLM's request: how many of its tokens were sent


class _WithSums:
    """Mixed into vLLM's schedulers, in front of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _end_with_the_parent()
        self._stats_due = 0.0
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
        find = manager.coordinator.find_longest_cache_hit

        def find_within_the_hashes(hashes: Any, most_tokens: int, *more: Any, **named: Any) -> Any:
            """Windows and recurrent states are looked up from the end: it must lie where the hashes end."""
            return find(hashes, min(most_tokens, len(hashes) * hash_size), *more, **named)

        manager.coordinator.find_longest_cache_hit = find_within_the_hashes

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Keep the books as vLLM does, then send what somebody waits for: pieces of streams, and of the others the
        first token, for the time to it, and the end, with the sums and all tokens between.

        Sending each token of each request costs the engine and the service a millisecond a step on a CPU.
        """
        running: dict[str, Any] = self.requests  # type: ignore[attr-defined]
        scheduled = [running[key] for key in scheduler_output.num_scheduled_tokens if key in running]
        unstreamed = {request.request_id: request for request in scheduled if not _is_streamed(request)}
        groups: dict[int, Any] = super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]
        sums: dict[str, dict[str, Any]] = getattr(model_runner_output, OUTPUT_ATTRIBUTE, {})
        for client, group in list(groups.items()):
            group.outputs = [one for one in group.outputs if _is_awaited(one, unstreamed.get(one.request_id))]
            for output in group.outputs:
                if output.request_id in unstreamed:
                    _add_kept_tokens(output, unstreamed[output.request_id])
                if output.finish_reason is not None and output.request_id in sums:
                    output.kv_transfer_params = sums[output.request_id]
            if not (group.outputs or group.scheduler_stats or group.finished_requests):
                del groups[client]
        return groups

    def make_stats(self, *counts: Any, **more: Any) -> Any:
        """Report the gauges ten times a second and once all work is done; never leave out counts of this step."""
        now = time.monotonic()
        idle = not self.has_unfinished_requests()  # type: ignore[attr-defined]
        given = (*counts, *more.values())  # none at all: vLLM asks outside of a step, and wants an answer
        if given and not idle and now < self._stats_due and all(one is None for one in given):
            return None
        self._stats_due = now + _STATS_S
        return super().make_stats(*counts, **more)  # type: ignore[misc]


def _is_streamed(request: Any) -> bool:
    parameters = request.sampling_params
    return not parameters or parameters.output_kind is not RequestOutputKind.FINAL_ONLY


def _is_awaited(output: Any, unstreamed: Any | None) -> bool:
    """Whether to send this output now: of a stream all are, of an unstreamed request the first, the last and news."""
    # Events are vLLM's own news of a request, such as a pre-emption.
    return (
        unstreamed is None or not hasattr(unstreamed, _SENT) or output.finish_reason is not None or bool(output.events)
    )


def _add_kept_tokens(output: Any, request: Any) -> None:
    """Let all of the request's tokens that were not sent before go with this output."""
    tokens = list(request.output_token_ids)
    output.new_token_ids = tokens[getattr(request, _SENT, 0) :]
    setattr(request, _SENT, len(tokens))


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
