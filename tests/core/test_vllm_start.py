"""What vLLM is started with on a GPU, told without one."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from grace.checkpoint import Checkpoint
from grace.engines.vllm_start import VllmOptions, arguments, prepare_environment
from grace.prompt import Prompter


def on_a_gpu(**options: Any) -> dict[str, Any]:
    checkpoint = Checkpoint.load()
    return arguments(checkpoint, Prompter(checkpoint), VllmOptions(**options), on_cpu=False)


def test_the_share_of_the_memory_holds_beside_a_cache_of_known_size() -> None:
    # vLLM's own share, nine tenths, would keep a second engine from starting on the card, however small its cache is.
    given = on_a_gpu(kv_cache_gib=2.0, gpu_memory_utilization=0.1)
    assert given["gpu_memory_utilization"] == 0.1
    assert given["kv_cache_memory_bytes"] == 2 * 2**30
    assert "kv_cache_memory_bytes" not in on_a_gpu()


def test_nothing_that_is_for_a_cpu_is_given_to_a_gpu() -> None:
    given = on_a_gpu()
    assert given["dtype"] == "auto"
    assert given["enforce_eager"] is False
    assert "block_size" not in given


def test_on_a_gpu_the_engine_is_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepare_environment() is False
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ
