"""One run of a baseline: data in, causal LM out. The caller exports it as it exports everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments
from torch import Tensor
from transformers import AutoModelForCausalLM

from grace.checkpoint import CheckpointConfig
from grace.prompt import Prompter
from grace_training import checkpoints
from grace_training.baselines import contrastive, simcse
from grace_training.baselines.encoder import DirectEncoder
from grace_training.carried import keep_carried
from grace_training.data import Example
from grace_training.errors import BadRecipe
from grace_training.export import Provenance, stamped

KNOWN = {field.name for field in fields(SentenceTransformerTrainingArguments)}
MEASURING = {"do_eval", "prediction_loss_only", "metric_for_best_model", "greater_is_better"}  # and all that is eval_*
USED = {"max_input_tokens", "max_completion_length", "preset", "objective", "pooling"}  # by the run itself
REFUSED = {
    "fsdp": "the weights are saved from one process, which must hold them whole",
    "fsdp_config": "the weights are saved from one process, which must hold them whole",
    "deepspeed": "the weights are saved from one process, which must hold them whole",
    "load_best_model_at_end": "it is measured before and after training, not on the way",
}


def handed_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are sentence-transformers' own too. Held-out figures are ours, so it is told of none."""
    return {name: value for name, value in settings.items() if name in KNOWN and not _measuring(name)}


def unused(method: str, settings: Mapping[str, Any]) -> list[str]:
    """Settings that mean nothing to a baseline: of rollouts and rewards, and of measuring on the way."""
    used = USED | ({"num_negatives"} if method == "contrastive" else set())
    reward = [f"reward.{name}" for name in settings.get("reward", {}) if name != "temperature"]
    return sorted([name for name in settings if name not in {*handed_on(settings), *used, "reward"}] + reward)


def check(method: str, settings: Mapping[str, Any], examples: list[Example], *, lora_rank: int) -> None:
    """Whether a baseline can do as the settings say, on these examples.

    Raises:
        BadRecipe: it cannot; what merely has no effect is no error, since methods share recipes.
    """
    if lora_rank:
        raise BadRecipe(f"lora_rank: {method} trains all weights, set it to 0")
    if settings.get("pooling", "mean") != "mean":
        raise BadRecipe(f"pooling: {method} pools the text by mean, not by {settings['pooling']!r}")
    if method == "contrastive" and settings.get("num_negatives", 1) > 1:
        raise BadRecipe("num_negatives: contrastive takes the first negative of each example (1), or none (0)")
    if method == "contrastive":
        contrastive.has_negatives(examples, settings.get("num_negatives", 1))
    for name, reason in REFUSED.items():
        if settings.get(name):
            raise BadRecipe(f"{name}: not with {method}: {reason}")


def _measuring(name: str) -> bool:
    return name in MEASURING or name.startswith(("eval_", "per_device_eval_"))


class BaselineTrainer(SentenceTransformerTrainer):
    """Its checkpoints are those of GraceTrainer: whole or not there, to be served and to go on from."""

    encoder: DirectEncoder
    checkpoint_config: CheckpointConfig
    provenance: Provenance | None  # what checkpoints on the way say, under their own steps

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        config = stamped(self.checkpoint_config, self.provenance and replace(self.provenance, steps=step))
        with checkpoints.whole_or_nothing(folder, config, self):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        self.encoder.load_weights(checkpoint_path)  # sentence-transformers would build an encoder without a prompter


class Baseline:
    """A model under contrastive training."""

    def __init__(self, method: Literal["contrastive", "simcse"], prompter: Prompter, *, dropout: float) -> None:
        self.method = method
        model = AutoModelForCausalLM.from_pretrained(str(prompter.checkpoint.folder), dtype=torch.float32)
        keep_carried(model)
        if method == "simcse":
            simcse.switch_on_dropout(model, dropout)
        self.model = model
        rate = dropout if method == "simcse" else 0.0
        self.encoder = DirectEncoder(model, prompter, embedding_dropout=rate)
        self._checkpoint_config = prompter.checkpoint.config
        prompts = {"query": "query: ", "document": "document: "}
        self.sentences = SentenceTransformer(modules=[self.encoder], prompts=prompts, device="cpu")

    def train(
        self,
        examples: list[Example],
        settings: dict[str, Any],
        *,
        temperature: float,
        resume: str | bool | None = None,
        provenance: Provenance | None = None,
    ) -> Any:
        """Train; the trainer is returned for its log.

        Raises:
            BadRecipe: simcse, and the model has no dropout; contrastive, and only some examples have a negative.
        """
        arguments = handed_on(settings)
        if self.method == "simcse":
            simcse.require_two_views(self.encoder, examples[0].positive)
            prompts, data = simcse.PROMPTS, simcse.dataset(examples)
            loss = simcse.loss(self.sentences, temperature=temperature)
        else:
            size = min(32, int(arguments.get("per_device_train_batch_size", 32)))
            prompts = contrastive.PROMPTS
            data = contrastive.dataset(examples, num_negatives=settings.get("num_negatives", 1))
            loss = contrastive.loss(self.sentences, temperature=temperature, mini_batch_size=size)
        trainer = BaselineTrainer(
            model=self.sentences,
            args=SentenceTransformerTrainingArguments(
                **{"report_to": "none", "logging_steps": 1, **arguments},
                batch_sampler="no_duplicates",
                prompts=prompts,
            ),
            train_dataset=data,
            loss=loss,
        )
        trainer.encoder, trainer.checkpoint_config = self.encoder, self._checkpoint_config
        trainer.provenance = provenance
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    @torch.no_grad()
    def encode(self, texts: list[str], role: str) -> Tensor:
        """(N, H) as `direct` mode would serve them."""
        self.encoder.eval()
        device = next(self.encoder.parameters()).device
        pieces = []
        for first in range(0, len(texts), 32):
            features = self.encoder.preprocess(texts[first : first + 32], prompt=f"{role}: ")
            moved = {name: tensor.to(device) for name, tensor in features.items()}
            pieces.append(self.encoder(moved)["sentence_embedding"])
        return torch.cat(pieces)
