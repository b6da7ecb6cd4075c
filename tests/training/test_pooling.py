"""The states a trainer pools are those that serving pools, whichever pass gives them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grace.checkpoint import Checkpoint
from grace.engines.transformers import TransformersEngine
from grace.errors import StateMismatch
from grace.prompt import Prompter
from grace.representation import Job, Representation
from grace_training.errors import BadRecipe
from grace_training.pooling import GenerationPooler, forward_pooled, pool_spans, prompt_tail
from tests.support.models import make_model
from tests.training.conftest import MakeTrainer, examples

TEXTS = ("Who built the bridge?", "A guild of masons did. It runs through three towns, past mills and a market.", "Sea")


def vectors(states: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(states.double(), dim=-1)


def served(engine_folder: Path, prompter: Prompter, jobs: list[Job]) -> list[Representation]:
    """What serving makes of the same texts, decoding greedily one by one."""

    async def run() -> list[Representation]:
        engine = TransformersEngine(Checkpoint.load(engine_folder), prompter)
        await engine.start()
        try:
            return [await engine.represent(job) for job in jobs]
        finally:
            await engine.close()

    return asyncio.run(run())


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("pooling", ["mean", "rationale", "last"])
def test_the_embedding_in_training_is_the_one_that_is_served(tmp_path: Path, family: Any, pooling: Any) -> None:
    folder = make_model(tmp_path / "m", family, stop_bias=3.0)
    prompter = Prompter(Checkpoint.load(folder))
    trainer = trainer_for(folder, prompter, tmp_path, pooling)
    jobs = [prompter.job(text, max_rationale_tokens=10) for text in TEXTS]
    trainer.model.eval()
    written = trainer.represent(jobs, 0.0)  # batched, left-padded
    assert written.states is not None
    for ids, state, representation in zip(
        written.token_ids, vectors(written.states), served(folder, prompter, jobs), strict=True
    ):
        assert representation.rationale is not None
        assert len(ids) == representation.completion_tokens
        assert tuple(ids[: representation.rationale.tokens]) == representation.rationale.token_ids
        if pooling == "rationale" and representation.completion_tokens == 1:
            assert state.eq(0).all()  # nothing but the stop token was written
            continue
        cosine = float(np.dot(state.numpy(), representation.vector(pooling)))
        assert cosine >= 1 - 1e-6


def trainer_for(folder: Path, prompter: Prompter, tmp_path: Path, pooling: str) -> Any:
    from datasets import Dataset

    from grace_training.data import training_rows
    from grace_training.trainer import GraceTrainer
    from tests.training.conftest import make_config

    config = make_config(tmp_path / "run", pooling=pooling)
    return GraceTrainer(str(folder), config, prompter, Dataset.from_list(training_rows(examples(4))))


@pytest.mark.parametrize("pooling", ["mean", "rationale", "last"])
def test_a_separate_forward_gives_the_same_states(make_trainer: MakeTrainer, prompter: Prompter, pooling: Any) -> None:
    trainer = make_trainer(pooling=pooling)
    jobs = [prompter.job(text, max_rationale_tokens=10) for text in TEXTS * 2]
    written = trainer.represent(jobs, 1.0)
    assert written.states is not None
    for batch_size in (1, 4):  # batch composition and padding change nothing
        again = forward_pooled(
            trainer.backbone,
            [(*job.prompt_ids, *ids[:-1]) for job, ids in zip(jobs, written.token_ids, strict=True)],
            [prompt_tail(job, pooling) + len(ids) - 1 for job, ids in zip(jobs, written.token_ids, strict=True)],
            pooling,
            batch_size=batch_size,
            device=torch.device("cpu"),
        )
        torch.testing.assert_close(vectors(again), vectors(written.states), atol=1e-5, rtol=0)


def test_the_logprob_pass_gives_the_states_of_generation(make_trainer: MakeTrainer) -> None:
    """Four micro-steps per generation and two per update: TRL makes a pass for old log-probabilities."""
    pooled = {}
    for pool_in in ("generation", "logprob", "forward"):
        trainer = make_trainer(
            pool_in=pool_in,
            steps_per_generation=4,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=4,
            max_steps=1,
        )
        torch.manual_seed(3)
        trainer._generate_and_score_completions(first_rows(trainer))
        pooled[pool_in] = trainer._drawn.rollouts
    for pool_in in ("logprob", "forward"):
        assert pooled[pool_in].token_ids == pooled["generation"].token_ids
        torch.testing.assert_close(
            vectors(pooled[pool_in].states), vectors(pooled["generation"].states), atol=1e-5, rtol=0
        )


def first_rows(trainer: Any) -> list[dict[str, Any]]:
    return next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0),  # generation alone: prompts, then tokens
        (
            {"steps_per_generation": 4, "gradient_accumulation_steps": 2, "pool_in": "logprob"},
            4,
        ),  # TRL's own, in chunks
    ],
)
def test_document_states_cost_no_forward_of_their_own(make_trainer: MakeTrainer, settings: Any, expected: int) -> None:
    trainer = make_trainer(**settings)
    calls = {"whole": 0, "step": 0}

    def count(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls["step" if kwargs.get("past_key_values") is not None else "whole"] += 1

    rows = first_rows(trainer)
    handle = trainer.backbone.register_forward_hook(count, with_kwargs=True)
    trainer._generate_and_score_completions(rows)
    handle.remove()
    assert calls["whole"] == expected
    assert calls["step"] <= 2 * trainer.max_completion_length  # rollouts; anchors and negatives


def test_a_step_of_generation_that_is_lost_is_noticed() -> None:
    backbone = torch.nn.Identity()
    pooler = GenerationPooler(backbone, [2, 3], (9,), "mean")
    pooler.see(torch.ones(2, 4, dtype=torch.long), torch.randn(2, 4, 8))
    pooler.see(torch.ones(2, 1, dtype=torch.long), torch.randn(2, 1, 8))
    pooler.states([2, 2])
    with pytest.raises(StateMismatch, match="ask for"):
        pooler.states([3, 2])
    with pytest.raises(StateMismatch, match="cache is needed"):
        pooler.see(torch.ones(2, 5, dtype=torch.long), torch.randn(2, 5, 8))


def test_spans_pool_the_positions_they_name() -> None:
    states = torch.randn(2, 5, 3)
    starts, ends = torch.tensor([1, 4]), torch.tensor([4, 4])
    mean = pool_spans(states, starts, ends, "mean")
    torch.testing.assert_close(mean[0], states[0, 1:4].mean(dim=0))
    assert mean[1].eq(0).all()
    torch.testing.assert_close(pool_spans(states, starts, ends, "last")[0], states[0, 3])
    assert pool_spans(states, starts, ends, "last")[1].eq(0).all()


def test_sums_are_float32_under_autocast() -> None:
    """Where the hooks are called that pool."""
    states, starts, ends = torch.randn(2, 50, 3), torch.tensor([1, 4]), torch.tensor([50, 30])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = pool_spans(states, starts, ends, "mean")
    torch.testing.assert_close(pooled, pool_spans(states, starts, ends, "mean"), atol=0, rtol=0)


def test_a_separate_forward_runs_in_the_precision_of_the_run(make_trainer: MakeTrainer, prompter: Prompter) -> None:
    jobs = [prompter.job(text, max_rationale_tokens=10) for text in TEXTS]
    exact, mixed = make_trainer(), make_trainer(bf16=True)
    token_ids = exact.represent(jobs, 0.0).token_ids
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = exact._states_of(jobs, token_ids, None)
    states = mixed._states_of(jobs, token_ids, None)
    torch.testing.assert_close(states, expected, atol=0, rtol=0)
    assert not torch.equal(states, exact._states_of(jobs, token_ids, None))


def test_pooling_that_no_rationale_changes_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(BadRecipe, match="pooling must be one of"):
        make_trainer(pooling="input")
