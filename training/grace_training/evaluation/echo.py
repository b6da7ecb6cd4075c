"""Echo embeddings: the input twice, the second copy pooled, so that each of its tokens has seen the whole text.

Springer et al., "Repetition Improves Language Model Embeddings", arXiv 2402.15449: prompt and mean pooling as there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType

from grace import Checkpoint
from grace.pooling import unit
from grace.representation import Floats
from grace_training.evaluation.mteb_model import model_meta, model_name, texts_of

_BEFORE, _BETWEEN = "Rewrite the following paragraph: ", "\nThe rewritten paragraph: "
_BATCH = 16


class Echo(AbsEncoder):
    """A causal language model as an embedder, untrained for it. Both roles are read alike."""

    def __init__(self, name_or_path: str, *, max_tokens: int = 256, device: str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer

        checkpoint = Checkpoint.load(name_or_path)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint.folder))
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = AutoModel.from_pretrained(str(checkpoint.folder), dtype="auto").to(self._device).eval()
        overhead = len(self._ids(_BEFORE)) + len(self._ids(_BETWEEN))
        self._max_tokens = min(max_tokens, (checkpoint.context_tokens - overhead) // 2)
        self.mteb_model_meta: ModelMeta = model_meta(
            model_name(name_or_path),
            revision=checkpoint.fingerprint[:12],
            experiment={"peer": "echo"},
            checkpoint=checkpoint,
        )

    @torch.inference_mode()
    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **kwargs: Any) -> Floats:
        """(N, H) unit vectors, each the mean over the second copy."""
        texts = list(texts_of(inputs))
        # Alike in length, batches hold little padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: dict[int, Floats] = {}
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            vectors.update(zip(batch, self._pooled([texts[i] for i in batch]), strict=True))
        return np.stack([vectors[i] for i in range(len(texts))])

    def _pooled(self, texts: list[str]) -> Floats:
        before, between = self._ids(_BEFORE), self._ids(_BETWEEN)
        copies = [self._ids(text)[: self._max_tokens] or between[-1:] for text in texts]
        rows = [[*before, *ids, *between, *ids] for ids in copies]
        longest = max(map(len, rows))
        # Padded on the right: a causal model's states before the padding do not see it.
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self._device)
        mask = torch.tensor([[i < len(row) for i in range(longest)] for row in rows], device=self._device)
        states = self._model(input_ids=padded, attention_mask=mask.long()).last_hidden_state.float()
        means = [
            states[n, len(row) - len(ids) : len(row)].mean(dim=0)
            for n, (row, ids) in enumerate(zip(rows, copies, strict=True))
        ]
        return np.asarray(unit(torch.stack(means).cpu().numpy()), np.float32)

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
