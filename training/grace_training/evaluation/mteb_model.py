"""GRACE as mteb sees a model: mteb's encoder protocol over an `Embedder`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from grace import Checkpoint
from grace.checkpoint import BUNDLED_NAME
from grace.representation import Floats, Role
from grace_training.evaluation.embedding import Embedder
from grace_training.evaluation.results import RepresentationName


class GraceEncoder(AbsEncoder):
    """One representation of one checkpoint.

    Queries are read under the checkpoint's query instruction; everything else, the texts of tasks that know no roles
    among it, under the document's. A document's text is title and body, as mteb joins them.
    """

    def __init__(self, embedder: Embedder, representation: RepresentationName, meta: ModelMeta) -> None:
        self.embedder, self.representation = embedder, representation
        self.mteb_model_meta = meta
        self.firsts: dict[tuple[str, Role], str] = {}  # the first text of each task and role, for case studies

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Floats:
        """(N, H) unit vectors of the texts of a DataLoader of batches, in their order."""
        role = role_of(prompt_type)
        texts = texts_of(inputs)
        if (task_metadata.name, role) not in self.firsts and (first := next(texts, None)) is not None:
            self.firsts[task_metadata.name, role] = first
            texts = itertools.chain([first], texts)
        return self.embedder.vectors(texts, role, self.representation)


def texts_of(inputs: Any) -> Iterator[str]:
    """The texts of a DataLoader, one by one: it is never held whole."""
    for batch in inputs:
        yield from batch["text"]


def role_of(prompt_type: PromptType | None) -> Role:
    """Our role for mteb's prompt type."""
    return "query" if prompt_type == PromptType.query else "document"


def model_meta(
    name: str,
    *,
    revision: str,
    experiment: dict[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
    embed_dim: int | None = None,
    similarity: ScoringFunction = ScoringFunction.COSINE,
) -> ModelMeta:
    """What mteb writes beside its results; `experiment` says how a variant differs from the model's default."""
    return ModelMeta(
        loader=None,
        name=name,
        revision=revision,
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=None,
        memory_usage_mb=None if checkpoint is None else round(checkpoint.weight_bytes / 2**20),
        max_tokens=None if checkpoint is None else checkpoint.context_tokens,
        embed_dim=embed_dim if checkpoint is None else checkpoint.hidden_size,
        license=None,
        open_weights=None if checkpoint is None else True,
        public_training_code=None,
        public_training_data=None,
        framework=[] if checkpoint is None else ["PyTorch"],
        similarity_fn_name=similarity,
        use_instructions=checkpoint is not None,
        training_datasets=None,
        experiment_kwargs=experiment or None,
    )


def model_name(name_or_path: str) -> str:
    """The `owner/model` under which results are kept: a hub id as it is, a folder by its last two parts."""
    if name_or_path == BUNDLED_NAME:
        return f"grace/{BUNDLED_NAME}"
    parts = [
        re.sub(r"[^\w.-]+", "-", part) for part in name_or_path.strip("/").split("/") if part not in ("", ".", "..")
    ]
    return "/".join((["local", *parts])[-2:])
