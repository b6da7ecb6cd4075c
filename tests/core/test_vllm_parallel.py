"""Spread over several workers, the engine's sums are those of the reference: on a CPU, as far as vLLM runs there.

    GRACE_TEST_PARALLEL=1 python -m pytest tests/core/test_vllm_parallel.py

Each case starts two or more processes of vLLM, which takes minutes on two cores.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from grace.checkpoint import Checkpoint
from grace.engines.transformers import TransformersEngine
from grace.engines.vllm import VllmEngine, VllmOptions
from grace.prompt import Prompter
from tests.conftest import ModelFolder
from tests.support.models import SENTENCES

ASKED = "GRACE_TEST_PARALLEL"
# vLLM 0.32 prepares the buffers between stages in a warm-up that it leaves out on a CPU.
STAGES = {"pipeline_parallel_size": 2, "extra": {"worker_cls": "tests.support.pipeline_worker.PipelineWorker"}}
CASES: dict[str, dict[str, Any]] = {
    "tensor": {"tensor_parallel_size": 2},
    "data": {"data_parallel_size": 2},
    "pipeline": STAGES,
}


@pytest.mark.slow
@pytest.mark.skipif(ASKED not in os.environ, reason=f"starts engines of several processes, minutes each: set {ASKED}=1")
@pytest.mark.parametrize("spread", CASES.values(), ids=CASES)
async def test_sums_are_those_of_the_reference(model_folder: ModelFolder, spread: dict[str, Any]) -> None:
    checkpoint = Checkpoint.load(model_folder("llama"))
    prompter = Prompter(checkpoint)
    # Steps of 64 tokens: prompts run in pieces, and texts share steps.
    options = VllmOptions(dtype="float32", kv_cache_gib=0.2, max_num_seqs=8, max_num_batched_tokens=64, **spread)
    engine, reference = VllmEngine(checkpoint, prompter, options), TransformersEngine(checkpoint, prompter)
    jobs = [prompter.job((SENTENCES * 2)[i : i + 20 + 40 * i]) for i in range(12)]
    try:
        await engine.start()
        await reference.start()
        made = await asyncio.gather(*(engine.represent(job) for job in jobs))
        for job, got in zip(jobs, made, strict=True):
            right = await reference.represent(job)
            assert got.rationale == right.rationale
            assert got.segments == right.segments
            for mine, its in zip(got.sums, right.sums, strict=True):
                assert mine @ its >= 0.99999 * (mine @ mine) ** 0.5 * (its @ its) ** 0.5
    finally:
        await engine.close()
        await reference.close()
