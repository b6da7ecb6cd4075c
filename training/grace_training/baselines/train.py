"""One run of a baseline: data in, causal LM out. The caller exports it as it exports everything."""

from __future__ import annotations

from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments
from torch import Tensor
from transformers import AutoModelForCausalLM

from grace.prompt import Prompter
from grace_training.baselines import contrastive, simcse
from grace_training.baselines.encoder import DirectEncoder
from grace_training.carried import keep_carried
from grace_training.data import Example

# What a baseline takes from the settings of a run; rollouts and rewards mean nothing to it.
TAKEN = (
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "seed",
    "use_cpu",
    "bf16",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "logging_steps",
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "report_to",
    "disable_tqdm",
    "max_grad_norm",
    "run_name",
)


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
        self._attention_dropout = 0.0
        prompts = {"query": "query: ", "document": "document: "}
        self.sentences = SentenceTransformer(modules=[self.encoder], prompts=prompts, device="cpu")

    def train(
        self, examples: list[Example], settings: dict[str, Any], *, temperature: float, resume: str | bool | None = None
    ) -> Any:
        """Train; the trainer is returned for its log.

        Raises:
            grace_training.errors.BadRecipe: simcse, and the model has no dropout.
        """
        arguments = {name: settings[name] for name in TAKEN if name in settings}
        module: Any = contrastive if self.method == "contrastive" else simcse
        if self.method == "simcse":
            simcse.require_two_views(self.encoder, examples[0].positive)
            loss = simcse.loss(self.sentences, temperature=temperature)
        else:
            size = min(32, int(arguments.get("per_device_train_batch_size", 32)))
            loss = contrastive.loss(self.sentences, temperature=temperature, mini_batch_size=size)
        trainer = SentenceTransformerTrainer(
            model=self.sentences,
            args=SentenceTransformerTrainingArguments(
                **{"report_to": "none", "logging_steps": 1, **arguments},
                batch_sampler="no_duplicates",
                prompts=module.PROMPTS,
            ),
            train_dataset=module.dataset(examples),
            loss=loss,
        )
        trainer.train(resume_from_checkpoint=resume)
        if self.method == "simcse":
            simcse.switch_on_dropout(self.model, self._attention_dropout)  # the checkpoint serves without it
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
