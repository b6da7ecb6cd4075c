"""The engine that serves: one vLLM pass writes the rationale and sums the states.

How vLLM is started is in `vllm_start`, the seams inside it are in `vllm_worker` and `vllm_scheduler`; here is what a
caller sees.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from grace import weights
from grace.checkpoint import Checkpoint
from grace.engines.base import Delta, assemble
from grace.engines.vllm_start import (
    READ_OTHERWISE,
    VllmOptions,
    arguments,
    check_room,
    check_version,
    prepare_environment,
    refuse,
)
from grace.engines.watchdog import TICK_S, silence
from grace.errors import EngineDead, EngineError, InvalidInput, StateMismatch, UnsupportedModel
from grace.prompt import Prompter
from grace.representation import Job, Representation

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["VllmEngine", "VllmOptions"]


_TIDY_S = 60.0  # how often, on a CPU, the engine's process returns memory that it does not use

# Of engines of one process: what one of them starts is known by what was not there before.
_one_at_a_time = threading.Lock()


class VllmEngine:
    """Runs jobs on vLLM, many at once, in one model.

    Raises:
        UnsupportedModel: from `start`, when an option or the model rules out exact sums.
    """

    def __init__(self, checkpoint: Checkpoint, prompter: Prompter, options: VllmOptions | None = None) -> None:
        self._checkpoint, self._prompter = checkpoint, prompter
        self._options = options or VllmOptions()
        self._llm: AsyncLLM | None = None
        self._processes: frozenset[Any] = frozenset()  # vLLM's, with all that these have started
        self._others: frozenset[Any] | None = None  # processes that were there before vLLM's
        self._helpers: list[asyncio.Task[None]] = []
        self._hung = False
        self._given_up = threading.Event()

    async def start(self) -> None:
        """Start vLLM's engine process and load the weights into it.

        Raises:
            UnsupportedModel: the model or an option rules out exact sums.
            EngineError: vLLM did not start.
        """
        await self._load()
        try:
            await self._check()
        except BaseException:
            await self.close()
            raise
        if self._options.niceness and prepare_environment():  # the first texts have run: its threads are there
            _give_way(self._processes, self._options.niceness)
        self._helpers.append(asyncio.create_task(self._watch()))
        if prepare_environment():
            self._helpers.append(asyncio.create_task(self._tidy()))

    async def close(self) -> None:
        """Stop the engine process."""
        for helper in self._helpers:
            helper.cancel()
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()
            # Its finaliser shuts it down again, and complains if the interpreter went first.
            llm.shutdown = lambda timeout=None: None

    @property
    def dead(self) -> bool:
        """True once the engine process is gone, or was found to hang."""
        return self._hung or (self._llm is not None and bool(self._llm.errored))

    async def represent(self, job: Job) -> Representation:
        """Answer one job. Cancelling the call takes the request out of the engine."""
        async with aclosing(self._run(job, pieces=False)) as items:
            async for item in items:
                if isinstance(item, Representation):
                    return item
        raise EngineError("vLLM ended a request without its sums")

    async def stream(self, job: Job) -> AsyncIterator[Delta | Representation]:
        """Pieces of the rationale as they are written, then the representation."""
        async with aclosing(self._run(job, pieces=True)) as items:
            async for item in items:
                yield item

    async def diagnostics(self) -> dict[str, int]:
        """What the workers count: `held`, requests that hold sums now; `resumed`, requests that came back from
        pre-emption; `cached_tokens`, prefix tokens that were read from the cache and not run.

        Under data parallelism those of the first engine: vLLM asks no other.
        """
        ranks: list[dict[str, int]] = await self._engine.collective_rpc("grace_diagnostics")
        return {key: sum(rank[key] for rank in ranks) for key in ranks[0]}

    async def _load(self) -> None:
        """Build the engine in a thread. Whoever does not wait any longer ends it: a thread by itself cannot be."""
        building = asyncio.get_running_loop().run_in_executor(None, self._build)
        try:
            self._llm = await asyncio.shield(building)
        except asyncio.CancelledError:
            self._given_up.set()
            while not building.done():  # without its processes, also those that come yet, vLLM gives up
                if self._others is not None:
                    _end(frozenset(multiprocessing.active_children()) - self._others)
                await asyncio.wait([building], timeout=TICK_S)
            if building.exception() is None:
                self._llm = building.result()
                await self.close()
            raise

    async def _watch(self) -> None:
        """End an engine that hangs: whoever waits for it then learns that it is dead.

        A question waits for the end of a step, so it is answered as often as there are steps.
        """
        await silence(self.diagnostics, limit_s=self._options.silence_s)
        self._hung = True
        _end(self._processes)

    async def _tidy(self) -> None:
        """Keep the process as large as its work is, and not as its largest step was. Whoever dies need not be tidy."""
        with suppress(Exception):
            while True:
                await asyncio.sleep(_TIDY_S)
                await self._engine.collective_rpc("grace_give_back")

    async def _check(self) -> None:
        """Refuse what would be pooled wrongly before the first text comes: ask the workers, then try it.

        One of the two texts is longer than a step, if the model's context allows: it runs in pieces.
        """
        for reason in await self._engine.collective_rpc("grace_refusal"):
            if reason is not None:
                raise UnsupportedModel(f"{self._checkpoint.name}: {reason}")
        longest = "Is every state counted once? " * (self._options.max_num_batched_tokens // 4)
        jobs = [self._prompter.job(text, max_rationale_tokens=2) for text in (longest, "Short.")]
        try:
            await asyncio.gather(*(self.represent(job) for job in jobs))
        except StateMismatch as error:
            raise UnsupportedModel(f"{self._checkpoint.name}: vLLM's states cannot be counted here: {error}") from error

    @property
    def _engine(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineDead("the engine is not running")
        return self._llm

    async def _run(self, job: Job, *, pieces: bool) -> AsyncGenerator[Delta | Representation, None]:
        from vllm.inputs.engine import TokensInput
        from vllm.v1.engine.exceptions import EngineDeadError

        decoder, generated = self._prompter.decoder(), []
        outputs = self._engine.generate(
            # Marked as rendered: else vLLM renders it, in another thread.
            TokensInput(type="token", prompt_token_ids=list(job.prompt_ids)),
            self._parameters(job, pieces),
            uuid.uuid4().hex,
        )
        last: RequestOutput | None = None
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    new = output.outputs[0].token_ids
                    generated += new
                    if pieces and job.max_new_tokens:
                        for token in new:
                            if token not in self._prompter.stop_ids and (piece := decoder.step(token)):
                                yield piece
                    if output.finished:
                        last = output
            if last is not None:
                yield self._representation(job, tuple(generated), last)
        except EngineDeadError as error:
            raise EngineDead("vLLM's engine process is gone") from error

    def _parameters(self, job: Job, pieces: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if job.probe and len(job.probe) != 4 * self._checkpoint.hidden_size:
            raise InvalidInput(
                f"a probe has {self._checkpoint.hidden_size} float32 numbers, not {len(job.probe)} bytes", param="probe"
            )
        ends = np.cumsum([job.pooled_from, *(segment.tokens for segment in job.segments)])[1:]
        return SamplingParams(
            temperature=job.temperature,
            # vLLM runs no request without sampling: `direct` samples one token and drops it unseen.
            max_tokens=job.max_new_tokens or 1,
            # One fixed set of stop ids for all requests: the worker tells an extra step by it.
            ignore_eos=True,
            stop_token_ids=list(self._prompter.stop_ids),
            detokenize=False,
            skip_clone=True,  # they are this request's alone
            output_kind=RequestOutputKind.DELTA if pieces else RequestOutputKind.FINAL_ONLY,
            extra_args={"grace": [job.pooled_from, *ends.tolist()]} | ({"grace_probe": job.probe} if job.probe else {}),
        )

    def _representation(self, job: Job, generated: tuple[int, ...], output: RequestOutput) -> Representation:
        if output.outputs[0].finish_reason == "abort":
            # Nobody asked for it: whoever leaves takes his request along and does not wait for an answer.
            raise EngineDead("vLLM is shutting down")
        sums = output.kv_transfer_params
        if not sums:
            raise StateMismatch("vLLM ended a request without its sums")
        counts = np.array(sums["counts"], dtype=np.int64)
        return assemble(
            job,
            self._prompter,
            generated=generated if job.max_new_tokens else (),
            sums=np.frombuffer(sums["sums"], dtype=np.float32).reshape(len(counts), -1),
            counts=counts,
            last=np.frombuffer(sums["last"], dtype=np.float32),
            dots=np.frombuffer(sums["dots"], dtype=np.float32) if "dots" in sums else None,
        )

    def _build(self) -> AsyncLLM:
        on_cpu = prepare_environment()
        if on_cpu and self._options.pipeline_parallel_size > 1 and "worker_cls" not in self._options.extra:
            raise EngineError(
                "pipeline_parallel_size must be 1 on a CPU: vLLM makes no buffers between the stages there (in 0.32)"
            )
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.metrics.loggers import PrometheusStatLogger

        check_version()
        if not READ_OTHERWISE & set(self._options.extra):
            weights.check(self._checkpoint)
        asked = AsyncEngineArgs(**arguments(self._checkpoint, self._prompter, self._options, on_cpu=on_cpu))
        try:
            config = asked.create_engine_config()
            refuse(self._checkpoint.name, config)
            check_room(config)
            if self._options.async_scheduling is not None:
                # The CPU platform switches it off while the config is made; set afterwards it holds.
                config.scheduler_config.async_scheduling = self._options.async_scheduling
            kind = "GraceAsyncScheduler" if config.scheduler_config.async_scheduling else "GraceScheduler"
            config.scheduler_config.scheduler_cls = f"grace.engines.vllm_scheduler.{kind}"
            with _one_at_a_time:
                # Nobody waits any longer, or may be there to end what is started now.
                if self._given_up.is_set():
                    raise EngineError(f"{self._checkpoint.name}: loading was given up")
                self._others = frozenset(multiprocessing.active_children())
                with _nameless_main():
                    # Given a logger of its own, vLLM leaves out the one that prints.
                    llm = AsyncLLM.from_vllm_config(
                        config,
                        disable_log_stats=True,
                        enable_log_requests=False,
                        stat_loggers=[PrometheusStatLogger] if self._options.metrics else None,
                    )
                self._processes = frozenset(multiprocessing.active_children()) - self._others
            return llm
        except (ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM did not start on {self._checkpoint.name}: {error}") from error


def _give_way(processes: Iterable[Any], niceness: int) -> None:
    """Let every thread of these processes have a core after those that are less nice. Only Linux counts by thread."""
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").glob("*"):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                now = os.getpriority(os.PRIO_PROCESS, int(thread.name))
                os.setpriority(os.PRIO_PROCESS, int(thread.name), now + niceness)


def _end(processes: Iterable[Any]) -> None:
    """Kill processes and all that they have started; asking nicely is no use with what hangs."""
    import psutil

    for process in processes:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            for member in (*parent.children(recursive=True), parent):
                with suppress(psutil.NoSuchProcess):
                    member.kill()


@contextmanager
def _nameless_main() -> Iterator[None]:
    """Hide the caller's script from the processes started meanwhile.

    A spawned process runs its parent's script again, to find what is defined there. vLLM's processes need nothing of
    it, and a script that loads a model without an `if __name__ == "__main__"` would start engines without end.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
