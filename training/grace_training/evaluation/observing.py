"""What passes through a model on its way to a score: how many texts, and which of them it was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from mteb.models.model_meta import ModelMeta

from grace_training.data import text_key
from grace_training.evaluation.mteb_model import texts_of


class Texts:
    """The texts that a task embeds, each counted once."""

    def __init__(self) -> None:
        self._keys: list[npt.NDArray[np.uint64]] = []
        self._unsorted = 0

    def see(self, texts: Iterable[str]) -> None:
        """Count texts; a text that was there before counts no more."""
        self._keys.append(np.fromiter((text_key(text) for text in texts), np.uint64))
        self._unsorted += len(self._keys[-1])
        if self._unsorted > 2**20:  # repeats are dropped now and then: a corpus may be asked for in many pieces
            self.keys()

    def keys(self) -> npt.NDArray[np.uint64]:
        """Hashes of the texts, sorted; case and white space do not count."""
        self._keys, self._unsorted = [np.unique(np.concatenate([*self._keys, np.zeros(0, np.uint64)]))], 0
        return self._keys[0]

    def __len__(self) -> int:
        return len(self.keys())


class Observed:
    """An encoder whose texts are seen. It passes everything on unchanged."""

    def __init__(self, model: Any, texts: Texts) -> None:
        self._model, self._texts = model, texts

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The model's own."""
        meta: ModelMeta = self._model.mteb_model_meta
        return meta

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        """Look through the batches once, then let the model encode them."""
        self._texts.see(texts_of(inputs))
        return self._model.encode(inputs, **kwargs)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's own."""
        return self._model.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """The model's own."""
        return self._model.similarity_pairwise(embeddings1, embeddings2)


class ObservedSearch:
    """The same around a model that searches by itself, and embeds nothing."""

    def __init__(self, model: Any, texts: Texts) -> None:
        self._model, self._texts = model, texts

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """The model's own."""
        meta: ModelMeta = self._model.mteb_model_meta
        return meta

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """See the documents' bodies, then let the model index them."""
        self._texts.see(corpus["text"])
        self._model.index(corpus, **kwargs)

    def search(self, queries: Any, **kwargs: Any) -> Any:
        """See the queries, then let the model search."""
        self._texts.see(queries["text"])
        return self._model.search(queries, **kwargs)
