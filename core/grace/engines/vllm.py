"""The engine that serves: one vLLM pass writes the rationale and sums the states.

The seams inside vLLM are in `vllm_worker` and `vllm_scheduler`; here is what a caller sees.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import platform
import sys
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tokenizers.decoders import DecodeStream

from grace import prompt, weights
from grace.checkpoint import Checkpoint
from grace.engines.base import Delta, assemble
from grace.engines.watchdog import TICK_S, silence
from grace.errors import EngineDead, EngineError, InvalidInput, StateMismatch, UnsupportedModel
from grace.prompt import Prompter
from grace.representation import Job, Representation

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

TESTED = ("0.26", "0.32")  # lowest and highest vLLM whose seams were read and run
_GIB = 2**30
# Of the key-value cache on a CPU, in float32. vLLM's own are of 128 tokens, and only whole blocks are read from the
# cache: an instruction of 20 tokens would be run again for every text.
_CPU_BLOCK_TOKENS = 16
# Of vLLM's arguments those under which the weights, or the config, are not read as they lie in the folder.
_READ_OTHERWISE = frozenset(
    {"config_format", "hf_config_path", "hf_overrides", "load_format", "model", "model_weights", "quantization"}
)


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM is run. Left at its default, a value is chosen for the machine."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: the checkpoint's on a GPU, float32 on a CPU
    max_num_seqs: int = 64  # texts in one step
    max_num_batched_tokens: int = 4096  # tokens in one step; longer prompts run in pieces
    kv_cache_gib: float | None = None  # CPU: 2 GiB unless said; GPU: what gpu_memory_utilization leaves
    kv_cache_blocks: int | None = None  # instead of kv_cache_gib, exactly
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    enforce_eager: bool | None = None  # None: eager on a CPU, where compiling gains nothing, graphs on a GPU
    prefix_caching: bool = True  # of the instruction; never of what is pooled
    async_scheduling: bool | None = None  # None: as vLLM decides
    metrics: bool = False  # keep vLLM's own, in prometheus_client's default registry of this process
    model_label: str | None = None  # `model_name` in these; None: the checkpoint's name
    silence_s: float = 300.0  # without an answer from the engine's process for so long, it hangs and is ended
    niceness: int = 0  # of vLLM's process on a CPU: above 0, this one goes first where both want a core
    extra: Mapping[str, Any] = field(default_factory=dict)  # any other of vLLM's engine arguments


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
        self._watchdog: asyncio.Task[None] | None = None
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
        self._watchdog = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Stop the engine process."""
        if self._watchdog is not None:
            self._watchdog.cancel()
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
        others = frozenset(multiprocessing.active_children())
        building = asyncio.get_running_loop().run_in_executor(None, self._build)
        try:
            self._llm = await asyncio.shield(building)
        except asyncio.CancelledError:
            self._given_up.set()
            while not building.done():  # without its processes, also those that come yet, vLLM gives up
                _end(frozenset(multiprocessing.active_children()) - others)
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
        from vllm.v1.engine.exceptions import EngineDeadError

        decoder, generated = DecodeStream(skip_special_tokens=False), []
        outputs = self._engine.generate(
            {"prompt_token_ids": list(job.prompt_ids)}, self._parameters(job, pieces), uuid.uuid4().hex
        )
        try:
            async for output in outputs:
                new = output.outputs[0].token_ids
                generated += new
                if pieces and job.max_new_tokens:
                    for token in new:
                        if token not in self._prompter.stop_ids:
                            piece = decoder.step(self._prompter.tokenizer.backend_tokenizer, token)
                            if piece:
                                yield piece
                if output.finished:
                    yield self._representation(job, tuple(generated), output)
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

        _check_version()
        if not _READ_OTHERWISE & set(self._options.extra):
            weights.check(self._checkpoint)
        arguments = AsyncEngineArgs(**self.engine_arguments(on_cpu))
        try:
            config = arguments.create_engine_config()
            self._refuse(config)
            _check_room(config)
            if self._options.async_scheduling is not None:
                # The CPU platform switches it off while the config is made; set afterwards it holds.
                config.scheduler_config.async_scheduling = self._options.async_scheduling
            kind = "GraceAsyncScheduler" if config.scheduler_config.async_scheduling else "GraceScheduler"
            config.scheduler_config.scheduler_cls = f"grace.engines.vllm_scheduler.{kind}"
            if self._given_up.is_set():  # nobody waits any longer, and what is started now may find nobody to end it
                raise EngineError(f"{self._checkpoint.name}: loading was given up")
            before = multiprocessing.active_children()
            with _nameless_main():
                # Given a logger of its own, vLLM leaves out the one that prints.
                llm = AsyncLLM.from_vllm_config(
                    config,
                    disable_log_stats=True,
                    enable_log_requests=False,
                    stat_loggers=[PrometheusStatLogger] if self._options.metrics else None,
                )
            self._processes = frozenset(multiprocessing.active_children()) - frozenset(before)
            return llm
        except (ValueError, RuntimeError, OSError) as error:
            raise EngineError(f"vLLM did not start on {self._checkpoint.name}: {error}") from error

    def engine_arguments(self, on_cpu: bool) -> dict[str, Any]:
        """What vLLM is started with."""
        options = self._options
        arguments: dict[str, Any] = {
            "model": str(self._checkpoint.folder),
            "served_model_name": options.model_label or self._checkpoint.name,
            "skip_tokenizer_init": True,  # prompts are ids, and decoding is ours
            "worker_cls": "grace.engines.vllm_worker.GraceWorker",
            "dtype": "float32" if options.dtype == "auto" and on_cpu else options.dtype,
            "max_model_len": self._checkpoint.context_tokens,
            "max_num_seqs": options.max_num_seqs,
            "max_num_batched_tokens": options.max_num_batched_tokens,
            "enable_prefix_caching": options.prefix_caching,
            "tensor_parallel_size": options.tensor_parallel_size,
            "pipeline_parallel_size": options.pipeline_parallel_size,
            "data_parallel_size": options.data_parallel_size,
            "enforce_eager": on_cpu if options.enforce_eager is None else options.enforce_eager,
            "generation_config": "vllm",  # the stop set is ours alone
            "additional_config": {
                "grace": {
                    "segments": prompt.MAX_SEGMENTS,
                    "rationale_segments": prompt.MAX_RATIONALE_SEGMENTS,
                    "stop_ids": list(self._prompter.stop_ids),
                    "segment_end_ids": list(self._prompter.segment_end_ids),
                }
            },
        }
        if options.kv_cache_blocks is not None:
            arguments["num_gpu_blocks_override"] = options.kv_cache_blocks
        if on_cpu:
            arguments["kv_cache_memory_bytes"] = int((options.kv_cache_gib or 2) * _GIB)
            if arguments["dtype"] == "float32" and _has_small_blocks():
                arguments["block_size"] = _CPU_BLOCK_TOKENS
        elif options.kv_cache_gib is not None:
            arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gib * _GIB)
        else:
            arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
        return arguments | dict(options.extra)

    def _refuse(self, config: Any) -> None:
        reasons = {
            "speculative decoding runs rows that are not accepted": config.speculative_config is not None,
            "prefill context parallelism splits the states": getattr(
                config.parallel_config, "prefill_context_parallel_size", 1
            )
            > 1,
            "KV-sharing fast prefill skips rows": getattr(config.cache_config, "kv_sharing_fast_prefill", False),
            "a KV connector brings positions that do not run": getattr(config, "kv_transfer_config", None) is not None,
            "a pooling runner writes nothing": config.model_config.runner_type != "generate",
        }
        if broken := [reason for reason, holds in reasons.items() if holds]:
            raise UnsupportedModel(f"{self._checkpoint.name}: sums would not be exact: {'; '.join(broken)}")


def prepare_environment() -> bool:
    """Set what vLLM reads from the environment before its first import; true on a machine without a GPU."""
    import torch

    on_cpu = not torch.cuda.is_available()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu:
        # The worker then lives in the engine's process: it starts in half the time and runs faster on few cores.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # A kernel is kept for each number of tokens a step may have. Making one costs nothing that could be measured;
        # keeping the usual 1,024 of them costs hundreds of MiB, so that memory grew for the first half hour.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    return on_cpu


def _give_way(processes: Iterable[Any], niceness: int) -> None:
    """Let every thread of these processes have a core after those that are less nice. Only Linux counts by thread."""
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").glob("*"):
            with suppress(ProcessLookupError):  # it has ended meanwhile
                now = os.getpriority(os.PRIO_PROCESS, int(thread.name))
                os.setpriority(os.PRIO_PROCESS, int(thread.name), now + niceness)


def _check_room(config: Any) -> None:
    """Whether the longest text fits into the key-value cache, as far as it was given a size.

    vLLM asks the same, but in its own process: its answer is a line in the log, about settings that are not ours.
    """
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    if cache.block_size is None or model.get_sliding_window() is not None:
        return
    blocks = -(-model.max_model_len // cache.block_size) + 1  # it keeps one for itself
    if cache.num_gpu_blocks_override is not None and cache.num_gpu_blocks_override < blocks:
        raise EngineError(
            f"a text of {model.max_model_len} tokens takes {blocks} blocks of the key-value cache, and there are "
            f"{cache.num_gpu_blocks_override} (kv_cache_blocks)"
        )
    numbers = 2 * model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    size = 1 if str(cache.cache_dtype).startswith("fp8") else model.dtype.itemsize
    needed, room = blocks * cache.block_size * numbers * size, cache.kv_cache_memory_bytes
    if room is not None and room < needed:
        raise EngineError(
            f"a text of {model.max_model_len} tokens takes {needed / _GIB:.3g} GiB of the key-value cache, and it has "
            f"{room / _GIB:.3g} (kv_cache_gib): give it more, or a model with a shorter context"
        )


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


def _has_small_blocks() -> bool:
    """Whether the CPU's attention kernel was seen to be exact with blocks of 16 tokens: of vLLM 0.32, on x86."""
    from vllm import __version__ as version

    return platform.machine() in ("x86_64", "AMD64") and version.startswith("0.32")


def _check_version() -> None:
    from vllm import __version__ as version

    numbers = tuple(int(part) for part in version.split(".")[:2])
    low, high = (tuple(int(part) for part in bound.split(".")) for bound in TESTED)
    if not low <= numbers <= high:
        raise UnsupportedModel(f"vLLM {version} is outside the tested range {TESTED[0]} to {TESTED[1]}")
