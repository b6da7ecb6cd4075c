"""The private methods of TRL that GraceTrainer overrides or calls: a new version that moves one fails here, by name."""

from __future__ import annotations

import inspect

import pytest
import trl
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

SEAMS = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_tokenize_prompts": ["self", "prompts"],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_get_train_sampler": ["self", "dataset"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_log_metric": ["self", "name", "value"],
    "_log_completion_extra": ["self", "column", "values"],
    "_send_telemetry": ["self"],
    "_load_best_model": ["self"],
}


@pytest.mark.parametrize("name", SEAMS)
def test_the_seam_has_the_signature_we_use(name: str) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == SEAMS[name]


def test_the_logprob_pass_takes_what_we_read_from_it() -> None:
    names = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert names[:7] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
    ]


def test_generation_returns_eight_things_in_this_order() -> None:
    source = inspect.getsource(GRPOTrainer._generate)
    assert (
        "return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images, tool_images"
        in source
    )


def test_the_old_logprob_pass_is_made_on_the_condition_we_repeat() -> None:
    source = " ".join(inspect.getsource(GRPOTrainer._generate_and_score_completions).split())
    assert (
        "if self.args.gradient_accumulation_steps % generate_every != 0 or ( self.use_vllm and "
        "self.vllm_importance_sampling_correction ):"
    ) in source


def test_the_loss_has_a_mask_that_is_not_the_attention_mask() -> None:
    source = " ".join(inspect.getsource(GRPOTrainer._compute_loss).split())
    assert "attention_mask = torch.cat([prompt_mask, completion_mask], dim=1)" in source
    assert 'mask = completion_mask if "tool_mask" not in inputs else completion_mask * inputs["tool_mask"]' in source


def test_the_sampler_takes_what_we_hand_on() -> None:
    names = list(inspect.signature(RepeatSampler.__init__).parameters)
    assert names == ["self", "data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed"]


def test_an_epoch_is_told_by_name() -> None:
    assert "epoch" in inspect.signature(GRPOTrainer._run_epoch).parameters
    source = " ".join(inspect.getsource(GRPOTrainer._inner_training_loop).split())
    assert "self._run_epoch( model=model, epoch=epoch," in source


def test_the_first_evaluation_counts_for_no_choice() -> None:
    source = " ".join(inspect.getsource(GRPOTrainer._inner_training_loop).split())
    assert "if args.eval_on_start: self._evaluate(trial, ignore_keys_for_eval, skip_scheduler=True)" in source


def test_vllm_is_sent_weights_by_the_step() -> None:
    source = inspect.getsource(GRPOTrainer._generate_single_turn)
    assert "if self.state.global_step != self._last_loaded_step:" in source


def test_the_version_is_the_one_we_were_written_for() -> None:
    assert trl.__version__.startswith("1.16.")
