"""How vLLM is started: its settings as they are here, what becomes of them, and what is refused because sums would be
wrong.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from grace import prompt
from grace.checkpoint import Checkpoint
from grace.errors import EngineError, UnsupportedModel
from grace.prompt import Prompter

TESTED = ("0.26", "0.32")  # lowest and highest vLLM whose seams were read and run
_GIB = 2**30
# Of the key-value cache on a CPU, in float32. vLLM's own are of 128 tokens, and only whole blocks are read from the
# cache: an instruction of 16 tokens would be run again for every text.
_CPU_BLOCK_TOKENS = 16
# Of vLLM's arguments those under which the weights, or the config, are not read as they lie in the folder.
READ_OTHERWISE = frozenset(
    {"config_format", "hf_config_path", "hf_overrides", "load_format", "model", "model_weights", "quantization"}
)
# Of vLLM's arguments those that spans and sums rest on, with the setting that stands for each.
OURS = {
    "additional_config": None,
    "dtype": "dtype",
    "generation_config": None,
    "max_model_len": "max_context_tokens",
    "model": "model",
    "skip_tokenizer_init": None,
    "tokenizer": "model",
}


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How vLLM is run. Left at its default, a value is chosen for the machine.

    Raises:
        EngineError: on construction, when `extra` has an argument that is ours to give.
    """

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

    def __post_init__(self) -> None:
        for name in sorted(OURS.keys() & self.extra.keys()):
            instead = f"set {OURS[name]} instead" if OURS[name] else "nothing may change it"
            raise EngineError(f"{name} is no further argument of vLLM's: {instead}")


def arguments(checkpoint: Checkpoint, prompter: Prompter, options: VllmOptions, *, on_cpu: bool) -> dict[str, Any]:
    """What vLLM is started with."""
    chosen: dict[str, Any] = {
        "model": str(checkpoint.folder),
        "served_model_name": options.model_label or checkpoint.name,
        "skip_tokenizer_init": True,  # prompts are ids, and decoding is ours
        "worker_cls": "grace.engines.vllm_worker.GraceWorker",
        "dtype": "float32" if options.dtype == "auto" and on_cpu else options.dtype,
        "max_model_len": checkpoint.context_tokens,
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
                "stop_ids": list(prompter.stop_ids),
                "segment_end_ids": list(prompter.segment_end_ids),
            }
        },
    }
    if options.kv_cache_blocks is not None:
        chosen["num_gpu_blocks_override"] = options.kv_cache_blocks
    if on_cpu:
        chosen["kv_cache_memory_bytes"] = int((options.kv_cache_gib or 2) * _GIB)
        if chosen["dtype"] == "float32" and _has_small_blocks():
            chosen["block_size"] = _CPU_BLOCK_TOKENS
    else:
        # Also beside a cache of known size: vLLM does not start where this share of the memory is not free.
        chosen["gpu_memory_utilization"] = options.gpu_memory_utilization
        if options.kv_cache_gib is not None:
            chosen["kv_cache_memory_bytes"] = int(options.kv_cache_gib * _GIB)
    return chosen | dict(options.extra)


def refuse(name: str, config: Any) -> None:
    """Refuse a configuration of vLLM under which a position would not be summed exactly once.

    Raises:
        UnsupportedModel: and why.
    """
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
        raise UnsupportedModel(f"{name}: sums would not be exact: {'; '.join(broken)}")


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
    else:
        # vLLM forks where it may, and a process forked from one that has asked for a GPU, as we just did, gets none;
        # besides, we start it from a thread, with others at work.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        # Triton's attention would multiply float32 in TF32: errors a thousand times larger (`bench/gpu.py`, part tf32).
        os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    return on_cpu


def check_room(config: Any) -> None:
    """Whether the longest text fits into the key-value cache, as far as it was given a size.

    vLLM asks the same, but in its own process: its answer is a line in the log, about settings that are not ours.

    Raises:
        EngineError: it does not.
    """
    model, cache, parallel = config.model_config, config.cache_config, config.parallel_config
    if cache.block_size is None or model.get_sliding_window() is not None or _is_compact(model, parallel):
        return
    blocks = -(-model.max_model_len // cache.block_size) + 1  # it keeps one for itself
    if cache.num_gpu_blocks_override is not None and cache.num_gpu_blocks_override < blocks:
        raise EngineError(
            f"a text of {model.max_model_len} tokens takes {blocks} blocks of the key-value cache, and there are "
            f"{cache.num_gpu_blocks_override} (kv_cache_blocks)"
        )
    compressed = str(cache.cache_dtype).startswith("fp8")
    if cache.cache_dtype != "auto" and not compressed:
        return
    numbers = 2 * model.get_num_layers(parallel) * model.get_num_kv_heads(parallel) * model.get_head_size()
    size = 1 if compressed else model.dtype.itemsize
    needed, room = blocks * cache.block_size * numbers * size, cache.kv_cache_memory_bytes
    if room is not None and room < needed:
        raise EngineError(
            f"a text of {model.max_model_len} tokens takes {needed / _GIB:.3g} GiB of the key-value cache, and it has "
            f"{room / _GIB:.3g} (kv_cache_gib): give it more, or set a lower max_context_tokens"
        )


def _is_compact(model: Any, parallel: Any) -> bool:
    """Whether a token takes less than keys and values of all layers: of latent attention, of layers that have none, or
    where engines share them (decode context parallelism).
    """
    shared = getattr(parallel, "decode_context_parallel_size", 1) > 1
    return bool(getattr(model, "use_mla", False) or getattr(model, "is_hybrid", False) or shared)


def _has_small_blocks() -> bool:
    """Whether the CPU's attention kernel was seen to be exact with blocks of 16 tokens: of vLLM 0.32, on x86."""
    from vllm import __version__ as version

    return platform.machine() in ("x86_64", "AMD64") and version.startswith("0.32")


def check_version() -> None:
    """Whether this vLLM is one of those that were tried.

    Raises:
        UnsupportedModel: it is not.
    """
    from vllm import __version__ as version

    numbers = tuple(int(part) for part in version.split(".")[:2])
    low, high = (tuple(int(part) for part in bound.split(".")) for bound in TESTED)
    if not low <= numbers <= high:
        raise UnsupportedModel(f"vLLM {version} is outside the tested range {TESTED[0]} to {TESTED[1]}")
