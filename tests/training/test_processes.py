"""What a run in several processes asks of each, looked at in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard
from transformers.distributed.fsdp import is_fsdp_managed_module

from grace.prompt import Prompter
from tests.training.conftest import MakeTrainer, built_by, examples


@pytest.mark.parametrize("settings", [{"objective": "unsupervised"}, {"num_negatives": 0}], ids=str)
def test_nothing_empty_is_gathered(make_trainer: MakeTrainer, settings: dict[str, Any]) -> None:
    """accelerate cannot shape what NCCL makes of tensors without elements."""
    trainer = make_trainer(**settings)
    trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    drawn: Any = trainer._drawn

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.numel()
        return torch.cat([tensor, tensor])

    states = trainer._batch.states(drawn.anchors.states, drawn.rollouts.states, drawn.negatives.states, gather)
    N, H = states.anchors.shape
    assert N == 4
    assert states.negatives.shape == (N, 0, H)
    assert states.negative_mask.shape == (N, 0)
    assert states.negative_mask.dtype == torch.bool


@pytest.mark.parametrize("lora", [False, True])
def test_processes_that_share_a_sharded_model_write_in_step(
    make_trainer: MakeTrainer, prompter: Prompter, lora: bool
) -> None:
    """transformers keeps them so while the model that writes says that it is sharded; a save must not read it there."""
    from peft import LoraConfig

    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM") if lora else None
    trainer = make_trainer(peft_config=adapter)
    model, seen = trainer.causal_lm, []
    generate = model.generate

    def listening(*args: Any, **kwargs: Any) -> Any:
        seen.append(is_fsdp_managed_module(model))
        return generate(*args, **kwargs)

    model.generate = listening
    for sharded in (False, True):
        trainer.is_fsdp_enabled = sharded  # type: ignore[attr-defined]
        trainer.represent([prompter.job("A river.", max_rationale_tokens=10)], 0.0)
    assert seen == [False, True]
    assert not is_fsdp_managed_module(model)


def test_each_process_of_a_resumed_run_goes_on_with_its_share(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """Two of an epoch's four batches are for the second of two processes; it is resumed in the second epoch."""
    settings: dict[str, Any] = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3, "data": examples(8)}

    def rows(resume: str | None = None) -> list[list[int]]:
        trainer = make_trainer(output_dir=str(tmp_path / "run"), **settings)
        whole = trainer.get_train_dataloader()
        share = BatchSamplerShard(whole.batch_sampler, num_processes=2, process_index=1)
        loader = DataLoaderShard(whole.dataset, batch_sampler=share, collate_fn=whole.collate_fn)
        trainer.get_train_dataloader = lambda: loader  # type: ignore[method-assign]
        built = built_by(trainer)
        trainer.train(resume_from_checkpoint=resume)
        return built

    whole = rows()
    assert len(whole) == 4
    assert whole[1] != whole[3]
    assert rows(str(tmp_path / "run" / "checkpoint-3")) == whole[3:]
