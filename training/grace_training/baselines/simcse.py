"""SimCSE: a text and itself under another dropout mask (Gao et al., arXiv 2104.08821).

Qwen2 and Llama have no dropout modules and attention_dropout 0: two passes in training mode are then equal to the bit,
and SimCSE learns from nothing. So dropout is switched on, and the baseline refuses to run if the views are equal.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from grace_training.baselines.encoder import DirectEncoder
from grace_training.data import Example
from grace_training.errors import BadRecipe

PROMPTS = {"anchor": "document: ", "positive": "document: "}


def dataset(examples: list[Example]) -> Dataset:
    """Each text twice."""
    texts = list(dict.fromkeys(e.positive for e in examples))
    return Dataset.from_dict({"anchor": texts, "positive": texts})


def switch_on_dropout(model: Any, rate: float) -> None:
    """Set attention dropout in the layers, which copied it when they were built; checkpoints keep the config's own."""
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = rate


@torch.no_grad()
def require_two_views(encoder: DirectEncoder, text: str) -> None:
    """Two passes of one text in training mode must differ.

    Raises:
        BadRecipe: they are equal, so there is nothing to learn from.
    """
    was_training = encoder.training
    encoder.train()
    device = next(encoder.parameters()).device
    features = {name: tensor.to(device) for name, tensor in encoder.preprocess([text]).items()}
    first, second = (encoder(features)["sentence_embedding"] for _ in range(2))
    encoder.train(was_training)
    if torch.equal(first, second):
        raise BadRecipe("simcse: two views of one text are equal, this model has no dropout: set dropout above 0")


def loss(encoder: SentenceTransformer, *, temperature: float) -> Any:
    """The other texts of the batch are the negatives. Not cached: GradCache would replay one dropout mask for both."""
    return MultipleNegativesRankingLoss(encoder, scale=1 / temperature)
