"""The one place that chooses an engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from grace.checkpoint import Checkpoint
from grace.engines.base import Engine
from grace.prompt import Prompter
from grace_server.house import served_name
from grace_server.settings import Settings

MakeEngine = Callable[[Settings, Checkpoint, Prompter], Engine]
# Of vLLM's arguments those under which the same files are another model: its vectors compare with no others.
OTHER_MODEL = frozenset(
    {
        "config_format",
        "hf_config_path",
        "hf_overrides",
        "model_class_overrides",
        "model_weights",
        "quantization",
        "quantization_config",
    }
)


@runtime_checkable
class Replicated(Protocol):
    """An engine that stands for several, each of which holds what the settings say."""

    @property
    def running(self) -> int:
        """How many there are now."""


def count_of(engine: Engine) -> Callable[[], int]:
    """How many engines stand behind this one."""
    return (lambda: engine.running) if isinstance(engine, Replicated) else (lambda: 1)


def load_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint the settings ask for. What `engine_args` make another model of has another fingerprint.

    Raises:
        CheckpointError: it is not there, is damaged, or has no such context.
    """
    checkpoint = Checkpoint.load(
        settings.model, revision=settings.revision, max_context_tokens=settings.max_context_tokens
    )
    altered = {name: value for name, value in settings.engine_args.items() if name in OTHER_MODEL and value is not None}
    if settings.engine != "vllm" or not altered:
        return checkpoint
    made_of = json.dumps([checkpoint.fingerprint, altered], sort_keys=True)
    return replace(checkpoint, fingerprint=hashlib.sha256(made_of.encode()).hexdigest()[:32])


def identity(settings: Settings, checkpoint: Checkpoint, *, replicated: bool = False) -> str:
    """Whatever changes a result beside the job: the cache finds nothing that was made under another.

    Args:
        replicated: Whether the engine is `Replicated`: where its engines have GPUs, this process need have none.
    """
    import torch

    # Of `auto` types the machine decides, and equal types have other last digits on another.
    found = "cuda" if (replicated and settings.ray_gpus) or torch.cuda.is_available() else "cpu"
    device = settings.device.partition(":")[0] if settings.engine == "transformers" else found
    arguments = json.dumps(settings.engine_args, sort_keys=True)
    return f"{checkpoint.fingerprint}/{settings.engine}/{settings.dtype}/{device}/{arguments}"


def make_engine(settings: Settings, checkpoint: Checkpoint, prompter: Prompter) -> Engine:
    """The engine the settings ask for, not yet started. Imported only when chosen: each brings its own gigabyte."""
    match settings.engine:
        case "vllm":
            from grace.engines.vllm import VllmEngine, VllmOptions

            return VllmEngine(
                checkpoint,
                prompter,
                VllmOptions(
                    dtype=settings.dtype,
                    max_num_seqs=settings.max_num_seqs,
                    max_num_batched_tokens=settings.max_num_batched_tokens,
                    kv_cache_gib=settings.kv_cache_gib,
                    gpu_memory_utilization=settings.gpu_memory_utilization,
                    tensor_parallel_size=settings.tensor_parallel_size,
                    pipeline_parallel_size=settings.pipeline_parallel_size,
                    data_parallel_size=settings.data_parallel_size,
                    enforce_eager=settings.enforce_eager,
                    prefix_caching=settings.prefix_caching,
                    metrics=settings.engine_metrics,
                    model_label=served_name(settings),
                    silence_s=settings.engine_timeout_s,
                    niceness=settings.engine_niceness,
                    extra=settings.engine_args,
                ),
            )
        case "transformers":
            from grace.engines.transformers import TransformersEngine

            return TransformersEngine(checkpoint, prompter, dtype=settings.dtype, device=settings.device)
