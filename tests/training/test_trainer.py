"""Real steps of TRL on a tiny model: every combination runs, and what it computes is what was asked for."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from grace.checkpoint import Checkpoint
from grace.errors import UnsupportedModel
from grace.prompt import Prompter
from grace_training import advantages, checkpoints, generation
from grace_training.errors import BadRecipe, NonFiniteReward, SaveFailed
from grace_training.presets import ALGORITHMS, PRESETS
from grace_training.rewards import score, with_lengths
from grace_training.rollouts import one_per_group
from tests.support.models import make_model
from tests.training.conftest import MakeTrainer, built_by, examples


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def rows_of(trainer: Any) -> list[dict[str, Any]]:
    return next(iter(trainer.get_train_dataloader()))  # type: ignore[no-any-return]


@pytest.mark.parametrize("objective", ["supervised", "unsupervised"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_steps_run(make_trainer: MakeTrainer, algorithm: str, preset: str, objective: str) -> None:
    trainer = make_trainer(algorithm=algorithm, preset=preset, objective=objective)
    before = weights(trainer)
    trainer.train()
    assert trainer.state.global_step == 2
    assert math.isfinite(trainer.state.log_history[0]["loss"])
    assert not torch.equal(before, weights(trainer))


@pytest.mark.parametrize(
    "settings",
    [
        {"symmetric": True},
        {"joint_weight": 0.1},
        {"num_negatives": 0},
        {"num_negatives": 3},
        {"reward": {"dimensions": [16, 64]}},
        {"reward": {"length_cost": 0.01}},
        {"overlong_filter": True},
        {"scale_advantage": True},
        {"pooling": "last"},
        {"beta": 0.01},
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"algorithm": "reinforce++", "kl_coefficient": 0.01},
        {"algorithm": "dapo", "reward": {"overlong_buffer": 4}},
        {"steps_per_generation": 4, "gradient_accumulation_steps": 2},
        {"num_iterations": 2, "joint_weight": 0.1},
    ],
    ids=str,
)
def test_each_option_runs(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    trainer = make_trainer(preset="improved", **settings)
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)


def test_lora_trains_the_adapter_and_pools_adapted_states(make_trainer: MakeTrainer, prompter: Prompter) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = make_trainer(peft_config=lora, joint_weight=0.1)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert any("lora_B" in name for name in moved)
    assert all("lora" in name for name in moved)

    with torch.no_grad():
        for name, p in trainer.model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    trainer.model.eval()
    job = prompter.job("A river.", max_rationale_tokens=trainer.max_completion_length)
    written = trainer.represent([job], 0.0)
    assert written.states is not None
    [token_ids] = written.token_ids

    @torch.no_grad()
    def pooled() -> torch.Tensor:
        ids = torch.tensor([[*job.prompt_ids, *token_ids[:-1]]])
        return trainer.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][:, job.pooled_from :].mean(1)

    torch.testing.assert_close(written.states, pooled())  # from the pass that wrote
    torch.testing.assert_close(trainer._states_of([job], [token_ids], None), pooled())  # from one of its own
    with trainer.model.disable_adapter():
        assert (written.states - pooled()).abs().max() > 0.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_advantages_in_the_batch_are_those_of_the_algorithm(make_trainer: MakeTrainer, algorithm: str) -> None:
    trainer = make_trainer(algorithm=algorithm, preset="improved", dynamic_sampling_tries=0)
    output = trainer._generate_and_score_completions(rows_of(trainer))
    paid, greedy = trainer._paid, trainer._greedy_paid
    expected = {
        "grpo": lambda: advantages.grpo(paid, scale=False),
        "dapo": lambda: advantages.dapo(paid),
        "reinforce++": lambda: advantages.reinforce_pp(paid, advantages.moments(paid, torch.ones_like(paid))),
        "remax": lambda: paid - greedy[:, None],  # type: ignore[index]
    }[algorithm]()
    torch.testing.assert_close(output["advantages"], expected.flatten())
    assert list(trainer._logs["advantages"]) == pytest.approx(expected.flatten().tolist(), abs=1e-5)


def test_the_greedy_baseline_is_the_reward_of_a_greedy_rollout(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(algorithm="remax", preset="paper", reward={"length_rule": "none"})
    trainer._generate_and_score_completions(rows_of(trainer))
    again = trainer.represent(trainer._batch.jobs, 0.0)
    greedy = trainer._drawn.greedy
    assert greedy is not None
    assert again.token_ids == greedy.token_ids
    assert again.states is not None
    total = score(trainer._states, trainer.settings, candidates=again.states[:, None]).total[:, 0]
    torch.testing.assert_close(trainer._greedy_paid, total)
    zero = make_trainer(algorithm="remax", preset="official")
    zero._generate_and_score_completions(rows_of(zero))
    assert zero._greedy_paid is None  # as released


def test_an_unsupervised_example_has_no_negative_to_write_for(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(objective="unsupervised", num_negatives=2)
    trainer._generate_and_score_completions(rows_of(trainer))
    assert trainer._drawn.negatives.token_ids == trainer._batch.negative_jobs == []


def test_the_reward_is_that_of_the_states_of_the_texts(make_trainer: MakeTrainer, prompter: Prompter) -> None:
    """Rollouts, anchors and negatives are run again, each alone, and scored: nothing was mixed up on the way."""
    from grace_training.pooling import forward_pooled, prompt_tail
    from grace_training.rewards import States

    trainer = make_trainer(num_negatives=2, data=examples(8, negatives=2))
    rows = rows_of(trainer)
    trainer._generate_and_score_completions(rows)
    drawn, K, M = trainer._drawn, 4, 2

    def alone(text: str, role: Any, ids: list[int]) -> torch.Tensor:
        job = prompter.job(text, role=role)
        tail = [prompt_tail(job, "mean") + len(ids) - 1]
        ready = (*job.prompt_ids, *ids[:-1])
        return forward_pooled(trainer.backbone, [ready], tail, "mean", batch_size=1, device=torch.device("cpu"))[0]

    groups = one_per_group(rows, K)  # type: ignore[arg-type]
    B = len(groups)
    rollouts = [alone(rows[n]["prompt"], "document", drawn.rollouts.token_ids[n]) for n in range(B * K)]
    anchors = [alone(g["anchor"], "query", drawn.anchors.token_ids[i]) for i, g in enumerate(groups)]
    negatives = [
        alone(g["negatives"][m], "document", drawn.negatives.token_ids[i * M + m])
        for (i, g), m in itertools.product(enumerate(groups), range(M))
    ]
    states = States(
        torch.stack(anchors),
        torch.stack(rollouts).view(B, K, -1),
        torch.stack(negatives).view(B, M, -1),
        torch.ones(B, M, dtype=torch.bool),
        ~torch.eye(B, dtype=torch.bool),
        torch.zeros(B, dtype=torch.bool),
    )
    lengths = torch.tensor([float(len(ids)) for ids in drawn.rollouts.token_ids]).view(B, K)
    stops = prompter.stop_ids
    cut = torch.tensor([len(i) >= 10 and i[-1] not in stops for i in drawn.rollouts.token_ids]).view(B, K)
    expected = with_lengths(score(states, trainer.settings).total, lengths, cut, trainer.settings, limit=10)
    torch.testing.assert_close(trainer._paid, expected, atol=1e-4, rtol=0)
    assert cut.any()
    assert not cut.all()


def test_groups_are_examples_and_never_equal_prompts(make_trainer: MakeTrainer) -> None:
    """Two examples with one positive text are two groups, each with its own query (the released code merges them)."""
    same = [examples(1)[0], *examples(4)[1:]]
    twins = [type(e)(e.query, "The same positive text.", e.negatives, e.source) for e in same]
    trainer = make_trainer(data=twins)
    trainer._generate_and_score_completions(rows_of(trainer))
    assert len({job.prompt_ids for job in trainer._batch.jobs}) == 1
    assert len({job.prompt_ids for job in trainer._batch.anchor_jobs}) == 2
    with pytest.raises(ValueError, match="whole groups"):
        one_per_group([*trainer._batch.rows, *trainer._batch.rows], 2)


def test_truncated_texts_keep_their_template(make_trainer: MakeTrainer, prompter: Prompter) -> None:
    long = [type(e)(e.query, "mill " * 2000, e.negatives, e.source) for e in examples(2)]
    trainer = make_trainer(data=long, max_steps=1)
    trainer._batch = trainer._build(one_per_group(list(rows_of(trainer)), 4))  # type: ignore[arg-type]
    suffix = prompter.templates["document"].suffix
    for job in trainer._batch.jobs:
        assert job.truncated
        assert job.prompt_ids[-len(suffix) :] == suffix


def test_dynamic_sampling_replaces_groups_of_equal_rewards(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(algorithm="dapo", preset="improved")
    honest, calls = trainer.pay, []

    def flat_at_first(batch: Any, drawn: Any) -> torch.Tensor:
        paid = honest(batch, drawn)
        calls.append(batch)
        if len(calls) == 1:
            paid = paid.clone()
            paid[1] = 0.0
        return paid

    trainer.pay = flat_at_first  # type: ignore[method-assign]
    output = trainer._generate_and_score_completions(rows_of(trainer))
    before, after = calls[0], trainer._batch
    assert before.rows[0] == after.rows[0]
    assert len(calls) == 3  # flat; not flat any more; the rewards that count
    # The ids that are learned from are those of the fresh group.
    width = output["prompt_ids"].shape[1]
    for k, job in itertools.product(range(4), [after.jobs[1]]):
        assert output["prompt_ids"][4 + k][width - len(job.prompt_ids) :].tolist() == list(job.prompt_ids)
        ids = trainer._drawn.rollouts.token_ids[4 + k]
        assert output["completion_ids"][4 + k][: len(ids)].tolist() == ids


def test_no_example_replaces_two_groups_while_there_are_others() -> None:
    for seed in range(20):
        assert len(set(generation.without_repeats(random.Random(seed), 10, 9))) == 9
        assert min(Counter(generation.without_repeats(random.Random(seed), 3, 7)).values()) == 2


def test_every_generation_of_an_update_draws_replacements_of_its_own(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones again after a resume."""
    monkeypatch.setattr(generation, "FLAT_STD", 1e9)  # every group is replaced
    settings: dict[str, Any] = {"algorithm": "dapo", "dynamic_sampling_tries": 1, "data": examples(40)}
    settings |= {"gradient_accumulation_steps": 4, "steps_per_generation": 1, "save_strategy": "steps", "save_steps": 1}

    def drawn(resume: str | None = None) -> list[list[int]]:
        trainer = make_trainer(output_dir=str(tmp_path / "run"), **settings)
        built = built_by(trainer)
        trainer.train(resume_from_checkpoint=resume)
        return built[1::2]  # after each generation's own examples those that replace them

    whole = drawn()
    assert len(whole) == 8
    assert len({tuple(picks) for picks in whole}) == 8
    assert drawn(str(tmp_path / "run" / "checkpoint-1")) == whole[4:]


def test_held_out_rationales_know_no_repetition_penalty(make_trainer: MakeTrainer) -> None:
    """Serving has none. Rollouts, and the anchors they are held against, have the recipe's."""
    texts = [example.positive for example in examples(4)]
    plain, penalised = make_trainer(), make_trainer(repetition_penalty=1.5)
    torch.testing.assert_close(penalised.encode(texts, "document"), plain.encode(texts, "document"))
    jobs = [plain.prompter.job(text, max_rationale_tokens=10) for text in texts]
    written = [trainer.represent(jobs, 0.0).token_ids for trainer in (plain, penalised)]
    assert written[0] != written[1]


LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")


@pytest.mark.parametrize("loss_type", LOSSES)
def test_the_overlong_filter_leaves_the_cut_off_out_of_the_loss(make_trainer: MakeTrainer, loss_type: str) -> None:
    """In every loss of TRL's the cut-off count as if nothing had been written, and are attended to all the same."""
    trainer = make_trainer(overlong_filter=True, loss_type=loss_type)
    output = trainer._generate_and_score_completions(rows_of(trainer))
    trainer.current_gradient_accumulation_steps = 1  # type: ignore[attr-defined]
    trainer._metrics["train"].clear()
    cut, whole = trainer._cut_off.flatten(), output["completion_mask"]
    assert cut.any()
    assert not cut.all()
    assert whole[cut].sum() == cut.sum() * 10, "they are attended to"
    assert output["num_items_in_batch"] == whole[~cut].sum()
    unwritten = {**output, "completion_mask": whole * ~cut[:, None]}
    del unwritten["tool_mask"]
    losses = [trainer._compute_loss(trainer.model, inputs) for inputs in (output, unwritten)]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-5)
    everything = trainer._compute_loss(trainer.model, {k: v for k, v in output.items() if k != "tool_mask"})
    assert (everything - losses[0]).abs() > 1e-6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_joint_loss_sees_cut_off_rollouts_as_they_were_written(make_trainer: MakeTrainer, algorithm: str) -> None:
    trainer = make_trainer(
        overlong_filter=True, joint_weight=1.0, max_steps=1, algorithm=algorithm, dynamic_sampling_tries=0
    )
    joint, seen = trainer._joint_loss, []

    def listening(pooled: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        seen.append(pooled.detach())
        return joint(pooled, at)

    trainer._joint_loss = listening  # type: ignore[method-assign]
    trainer.train()
    assert trainer._cut_off.any()
    written = trainer._drawn.rollouts.states
    assert written is not None
    # TRL shuffles the batch after its generation: each state is looked for among those of the generation.
    nearest = torch.cdist(seen[0], written, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    assert nearest.max() < 1e-4


def test_the_joint_loss_moves_the_policy_where_the_reward_does_not(make_trainer: MakeTrainer) -> None:
    moved = []
    for joint_weight in (0.0, 1.0):
        trainer = make_trainer(joint_weight=joint_weight, max_steps=1)
        trainer._advantages = lambda output: torch.zeros(8)  # type: ignore[method-assign]
        before = weights(trainer)
        trainer.train()
        moved.append(float((weights(trainer) - before).abs().max()))
    # Weight decay alone moves the first.
    assert moved[0] < 1e-4
    assert moved[1] > 1e-4


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"bf16": True}], ids=str)
def test_cheaper_memory_leaves_the_states_as_they_are(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    """The states in the pass with a gradient: equal with checkpointing, and close in bfloat16."""
    seen, moved = [], []
    for more in ({}, settings):
        trainer = make_trainer(joint_weight=1.0, max_steps=1, **more)
        joint = trainer._joint_loss

        def listening(pooled: torch.Tensor, at: torch.Tensor, joint: Any = joint) -> torch.Tensor:
            seen.append(pooled.detach().float())
            return joint(pooled, at)  # type: ignore[no-any-return]

        trainer._joint_loss = listening  # type: ignore[method-assign]
        # The same rollouts for both: in bfloat16 others would be drawn.
        trainer.generation_config.do_sample = False
        trainer.train()
        moved.append(weights(trainer))
    assert len(seen) == 2
    if "bf16" in settings:
        assert torch.nn.functional.cosine_similarity(*seen).min() > 0.999
        assert moved[1].isfinite().all()
    else:
        torch.testing.assert_close(seen[0], seen[1], atol=1e-6, rtol=0)
        torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("epochs", [1, 2])
def test_resuming_gives_the_trajectory_of_not_stopping(make_trainer: MakeTrainer, tmp_path: Path, epochs: int) -> None:
    """With 8 examples and 2 groups a step, an epoch is 4 steps: the second case resumes within the second one."""
    settings: dict[str, Any] = {
        "max_steps": 4 * epochs,
        "save_strategy": "steps",
        "save_steps": 4 * epochs - 2,
        "data": examples(8),
        "preset": "improved",
    }
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    resumed = make_trainer(output_dir=str(tmp_path / "whole"), **settings)
    at = checkpoints.latest(tmp_path / "whole")
    first = min(tmp_path.glob("whole/checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    assert at is not None
    resumed.train(resume_from_checkpoint=str(first))
    torch.testing.assert_close(weights(resumed), weights(whole), atol=0, rtol=0)
    last = [
        [entry[k] for k in ("loss", "grad_norm", "reward")]
        for t in (whole, resumed)
        for entry in t.state.log_history
        if entry.get("step") == 4 * epochs and "loss" in entry
    ]
    assert last[0] == last[1]


def test_vllm_is_given_the_best_weights(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL sends weights when the step is another than when it last did, and it is not when the best are loaded."""
    trainer = make_trainer()
    monkeypatch.setattr(Trainer, "_load_best_model", lambda self: None)
    trainer._last_loaded_step = trainer.state.global_step
    trainer._load_best_model()
    assert trainer._last_loaded_step != trainer.state.global_step


@pytest.mark.parametrize(
    "settings",
    [
        {"load_best_model_at_end": True, "save_strategy": "steps"},
        {"save_strategy": "best"},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"lr_scheduler_type": "greedy"},
    ],
    ids=str,
)
def test_measurements_are_compared_by_ndcg_unless_said(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    trainer = make_trainer(held_out=examples(4), eval_strategy="steps", eval_steps=1, save_steps=1, **settings)
    trainer.train()
    best = max(entry["eval_ndcg_at_10"] for entry in trainer.state.log_history if "eval_ndcg_at_10" in entry)
    assert trainer.state.best_metric == best
    assert getattr(trainer.lr_scheduler, "mode", "max") == "max"


def test_a_checkpoint_on_the_way_can_be_served(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(save_strategy="steps", save_steps=1, output_dir=str(tmp_path / "run"))
    trainer.train()
    found = checkpoints.latest(tmp_path / "run")
    assert found is not None
    assert found.name == "checkpoint-2"
    assert Prompter(Checkpoint.load(found)).templates == trainer.prompter.templates


def test_a_full_disk_leaves_no_half_checkpoint(make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: Any) -> None:
    trainer = make_trainer(save_strategy="steps", save_steps=1, max_steps=3, output_dir=str(tmp_path / "run"))
    save, calls = trainer._save_rng_state, []

    def full(output_dir: str) -> None:
        calls.append(output_dir)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(output_dir)

    monkeypatch.setattr(trainer, "_save_rng_state", full)
    with pytest.raises(SaveFailed, match="No space left"):
        trainer.train()
    found = checkpoints.latest(tmp_path / "run")
    assert found is not None
    assert found.name == "checkpoint-1"
    assert not (tmp_path / "run" / "checkpoint-2").exists()


def test_a_reward_that_is_no_number_stops_before_it_is_learned(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    before, honest = weights(trainer), trainer.represent

    def broken(jobs: Any, temperature: float) -> Any:
        written = honest(jobs, temperature)
        return written._replace(states=written.states * float("nan"))

    trainer.represent = broken  # type: ignore[method-assign]
    with pytest.raises(NonFiniteReward, match="a reward is NaN or infinite"):
        trainer.train()
    assert torch.equal(before, weights(trainer))


def test_weights_that_are_no_numbers_are_named(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteReward, match="probabilities are NaN"):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 1}, "at least 2"),
        ({"per_device_train_batch_size": 6}, "whole number of groups|divisible"),
        ({"save_strategy": "steps", "save_steps": 1, "steps_per_generation": 4}, "inside a generation"),
        (
            {"save_strategy": "steps", "save_steps": 4, "steps_per_generation": 4, "max_steps": 6},
            "max_steps 6 ends inside a generation",
        ),
        ({"save_strategy": "steps", "save_steps": 0.5}, "save_steps must be a whole number"),
        (
            {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "steps_per_generation": 4},
            "eval_steps 1 falls inside a generation",
        ),
        ({"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 0.5}, "eval_steps must be a whole number"),
        ({"metric_for_best_model": "loss"}, "must be one of accuracy_at_1, .*, infonce, not 'loss'"),
        ({"scale_rewards": "batch"}, "scale_rewards has no effect: .* set scale_advantage or algorithm"),
        ({"scale_rewards": False}, "scale_rewards has no effect"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, "multi_objective_aggregation has no effect"),
        ({"reward_weights": [3.0]}, "reward_weights has no effect"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs has no effect"),
        ({"reward": {"tau": 1}}, "reward has no tau"),
        ({"reward": {"temperature": 0}}, "above 0"),
        ({"reward": {"contrast": "cosine"}}, "reward.contrast"),
        ({"preset": "best"}, "preset must be one of"),
        ({"mask_truncated_completions": True}, "overlong_filter"),
        ({"kl_coefficient": 0.1}, "belongs to reinforce"),
        ({"objective": "unsupervised", "symmetric": True}, "one text"),
        ({"pool_in": "logprob"}, "log-prob pass"),
        ({"max_completion_length": 1000}, "the context leaves"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(make_trainer: MakeTrainer, settings: Any, message: str) -> None:
    with pytest.raises(BadRecipe, match=message):
        make_trainer(**settings)


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UnsupportedModel, match="no chat template"):
        Prompter(Checkpoint.load(folder))
