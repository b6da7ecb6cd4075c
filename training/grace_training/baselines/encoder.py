"""A sentence-transformers module that embeds exactly as `grace` does in `direct` mode.

sentence-transformers would put a prompt before the text as a string and find the boundary by counting the prompt's
tokens, which is wrong wherever tokens merge across it. Here the token ids and the pooled span come from grace.prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from grace.prompt import Prompter
from grace.representation import Role
from grace_training.pooling import pool_spans

ROLES: dict[str, Role] = {
    "query: ": "query",
    "document: ": "document",
}  # the prompts of sentence-transformers, as names


class DirectEncoder(InputModule):
    """Text -> mean of the last hidden states over the text, the prefix left out. B texts, T tokens, H hidden size."""

    def __init__(self, model: Any, prompter: Prompter, *, embedding_dropout: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self._prompter = prompter
        self.tokenizer = prompter.tokenizer
        self.max_seq_length = prompter.overhead + prompter.max_input_tokens
        self.dropout = nn.Dropout(embedding_dropout)
        if embedding_dropout:
            model.get_input_embeddings().register_forward_hook(lambda module, args, output: self.dropout(output))

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        """Token ids (B, T), their mask (B, T) and the pooled spans (B,), (B,)."""
        role = ROLES.get(prompt or "", "document")
        jobs = [self._prompter.job(str(text), role=role, mode="direct") for text in inputs]
        T = max(len(job.prompt_ids) for job in jobs)
        lengths = torch.tensor([len(job.prompt_ids) for job in jobs])
        return {
            "input_ids": torch.tensor([[*job.prompt_ids, *[0] * (T - len(job.prompt_ids))] for job in jobs]),
            "attention_mask": (torch.arange(T) < lengths[:, None]).long(),
            "pool_start": torch.tensor([job.pooled_from for job in jobs]),
            "pool_end": lengths,
        }

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds `sentence_embedding` (B, H)."""
        output = self.model.base_model(
            input_ids=features["input_ids"], attention_mask=features["attention_mask"], use_cache=False
        )
        spans = features["pool_start"], features["pool_end"]
        return {**features, "sentence_embedding": pool_spans(output[0], *spans, "mean")}

    def get_embedding_dimension(self) -> int:
        """H."""
        return self._prompter.checkpoint.hidden_size

    def load_weights(self, folder: str) -> None:
        """Take the weights that `save` wrote."""
        saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model.load_state_dict(saved.state_dict())

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """The causal LM and its tokenizer, as Hugging Face folders hold them."""
        self.model.save_pretrained(output_path)
        self.save_tokenizer(output_path)
