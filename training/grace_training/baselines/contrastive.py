"""InfoNCE over the batch's positives and the examples' negatives (van den Oord et al., arXiv 1807.03748)."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from grace_training.data import Example

PROMPTS = {"anchor": "query: ", "positive": "document: ", "negative": "document: "}


def dataset(examples: list[Example]) -> Dataset:
    """anchor, positive, and one negative wherever every example has one; sentence-transformers wants whole columns."""
    columns: dict[str, list[Any]] = {
        "anchor": [e.query for e in examples],
        "positive": [e.positive for e in examples],
    }
    if all(e.negatives for e in examples):
        columns["negative"] = [e.negatives[0] for e in examples]
    return Dataset.from_dict(columns)


def loss(encoder: SentenceTransformer, *, temperature: float, mini_batch_size: int) -> Any:
    """Cached (GradCache), so that the batch may be larger than memory holds."""
    return CachedMultipleNegativesRankingLoss(encoder, scale=1 / temperature, mini_batch_size=mini_batch_size)
