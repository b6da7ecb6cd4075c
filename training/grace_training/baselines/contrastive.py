"""InfoNCE over the batch's positives and the examples' negatives (van den Oord et al., arXiv 1807.03748)."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from grace_training.data import Example
from grace_training.errors import BadRecipe

PROMPTS = {"anchor": "query: ", "positive": "document: ", "negative": "document: "}


def has_negatives(examples: list[Example], num_negatives: int) -> bool:
    """Whether the examples have negatives to train on; sentence-transformers wants whole columns.

    Raises:
        BadRecipe: some have one and some have none.
    """
    without = [e for e in examples if not e.negatives]
    if not num_negatives or len(without) == len(examples):
        return False
    if without:
        raise BadRecipe(
            f"contrastive: {len(without)} of {len(examples)} examples have no negative, the first is "
            f"{without[0].source}: give each of them one, or set num_negatives=0 to train without any"
        )
    return True


def dataset(examples: list[Example], *, num_negatives: int = 1) -> Dataset:
    """anchor, positive, and the first negative of each, where they have any."""
    columns: dict[str, list[Any]] = {
        "anchor": [e.query for e in examples],
        "positive": [e.positive for e in examples],
    }
    if has_negatives(examples, num_negatives):
        columns["negative"] = [e.negatives[0] for e in examples]
    return Dataset.from_dict(columns)


def loss(encoder: SentenceTransformer, *, temperature: float, mini_batch_size: int) -> Any:
    """Cached (GradCache), so that the batch may be larger than memory holds."""
    return CachedMultipleNegativesRankingLoss(encoder, scale=1 / temperature, mini_batch_size=mini_batch_size)
