"""The engines that the parts of `gpu.py` run: ours, and vLLM as it comes."""

from __future__ import annotations

import subprocess
from typing import Any

from bench._parts import Asked


def engine_options(asked: Asked, *, max_num_seqs: int) -> Any:
    import torch

    from grace.engines.vllm import VllmOptions

    chosen: dict[str, Any] = {"dtype": asked.part.dtype, "max_num_seqs": max_num_seqs, **asked.part.options}
    extra = dict(chosen.pop("extra", {}))
    if torch.cuda.is_available():
        # Several engines share the card: each takes what it is given, and none measures what is left.
        chosen |= {"kv_cache_gib": 6.0 if asked.part.alone else 2.0, "gpu_memory_utilization": 0.1}
    else:
        chosen |= {"kv_cache_gib": 0.2}
        if asked.part.alone:  # smaller blocks are ours alone there
            extra |= {"block_size": 128}
    return VllmOptions(**chosen, extra=extra)


async def start_one_pass(checkpoint: Any, prompter: Any, asked: Asked, *, max_num_seqs: int = 256) -> Any:
    from grace.engines.vllm import VllmEngine

    engine = VllmEngine(checkpoint, prompter, engine_options(asked, max_num_seqs=max_num_seqs))
    await engine.start()
    return engine


def start_plain(checkpoint: Any, prompter: Any, asked: Asked) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from grace.engines.vllm_start import arguments, prepare_environment

    on_cpu = prepare_environment()
    same = arguments(checkpoint, prompter, engine_options(asked, max_num_seqs=256), on_cpu=on_cpu)
    del same["worker_cls"], same["additional_config"]  # vLLM's own worker and scheduler
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**same, disable_log_stats=True))


def runner(engine: Any) -> dict[str, Any]:
    """What vLLM chose for itself."""
    config = engine._engine.vllm_config
    compiled = config.compilation_config
    return {
        "v2": bool(getattr(config, "use_v2_model_runner", False)),
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
        "graphs": str(compiled.cudagraph_mode),
        "compiled": str(compiled.mode),
        "block_size": config.cache_config.block_size,
        "prefix_caching": bool(config.cache_config.enable_prefix_caching),
    }


def gpu() -> dict[str, Any]:
    """What the card says of itself; nothing without one."""
    asked = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(asked.split(","), told.stdout.strip().split(", "), strict=False))
