"""Run by test_vllm.py in a process of its own, whose environment vLLM reads when it is imported."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from datasets import Dataset

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_training.data import training_rows
from grace_training.pooling import forward_pooled, prompt_tail
from grace_training.trainer import GraceTrainer
from tests.training.conftest import examples, make_config


def main(folder: Path, out: Path) -> None:
    prompter = Prompter(Checkpoint.load(folder))
    args = make_config(
        out,
        preset="improved",
        algorithm="remax",
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.1,
        vllm_max_model_length=512,
        max_steps=2,
    )
    assert args.pool_in == "logprob"
    trainer = GraceTrainer(str(folder), args, prompter, Dataset.from_list(training_rows(examples(12))))
    untrained = trainer.represent([prompter.job("Who built the bridge?")], 0.0).token_ids
    trainer.train()
    # Before its last update the policy wrote and pooled this batch; now the weights are others: pool it again.
    trainer._last_loaded_step = -1
    trainer.model.eval()
    rows = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    trainer._generate_and_score_completions(rows)
    jobs, drawn = trainer._batch.rollout_jobs, trainer._drawn.rollouts
    again = forward_pooled(
        trainer.backbone,
        [(*job.prompt_ids, *ids[:-1]) for job, ids in zip(jobs, drawn.token_ids, strict=True)],
        [prompt_tail(job, "mean") + len(ids) - 1 for job, ids in zip(jobs, drawn.token_ids, strict=True)],
        "mean",
        batch_size=3,
        device=torch.device("cpu"),
    )
    assert drawn.states is not None
    cosine = torch.nn.functional.cosine_similarity(again, drawn.states)
    assert cosine.min() > 1 - 1e-5, cosine
    # vLLM writes with the trained weights: greedily, what transformers writes.
    job = prompter.job("Who built the bridge?")
    ids = torch.tensor([job.prompt_ids])
    generated = trainer.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=10)
    written = trainer.represent([job], 0.0).token_ids[0]
    expected = generated[0, ids.shape[1] :].tolist()
    # vLLM decodes in half precision here: the first tokens are compared.
    assert written[:3] == expected[:3], (untrained, written, expected)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
