"""The floor: models that know words and nothing else. TF-IDF by scikit-learn, BM25 by SQLite's full-text search.

They are what a learned model has to beat. TF-IDF is fitted on the texts of each task, without its labels.
"""

from __future__ import annotations

import copy
import re
import sqlite3
from typing import Any

import numpy as np
from mteb.abstasks import AbsTask
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from grace.representation import Floats
from grace_training.evaluation.listening import texts_of_task
from grace_training.evaluation.mteb_model import model_meta, texts_of

_WORDS = 4096  # most frequent words kept, so that a large corpus stays dense and small
_FITTED_ON = 200_000  # texts of a task at most


class TfIdf(AbsEncoder):
    """TF-IDF vectors, as they are or reduced by a truncated SVD."""

    def __init__(self, dimensions: int | None = None) -> None:
        self._dimensions = dimensions
        name = "floor/tf-idf" if dimensions is None else f"floor/tf-idf-svd-{dimensions}"
        self.mteb_model_meta: ModelMeta = model_meta(name, revision="1", embed_dim=dimensions or _WORDS)

    def prepare(self, task: AbsTask) -> None:
        """Fit on a task's texts."""
        texts = texts_of_task(copy.deepcopy(task), at_most=_FITTED_ON)
        self._vectorizer = TfidfVectorizer(max_features=_WORDS, sublinear_tf=True, dtype=np.float32)
        matrix = self._vectorizer.fit_transform(texts)
        self._svd = None
        if self._dimensions is not None:
            self._svd = TruncatedSVD(min(self._dimensions, matrix.shape[1] - 1, matrix.shape[0]), random_state=0)
            self._svd.fit(matrix)

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **kwargs: Any) -> Floats:
        """(N, H) unit vectors; a text without a known word is the zero vector."""
        matrix = self._vectorizer.transform(texts_of(inputs))
        dense = matrix.toarray() if self._svd is None else self._svd.transform(matrix)
        return np.asarray(normalize(dense), np.float32)


class BM25:
    """BM25 with stemming (SQLite FTS5: k1 = 1.2, b = 0.75). It searches and re-ranks; it has no vectors."""

    def __init__(self) -> None:
        self.mteb_model_meta: ModelMeta = model_meta("floor/bm25", revision="1", similarity=ScoringFunction.CUSTOM)
        self._table: sqlite3.Connection | None = None
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Put the documents into a table that is on disk when it is large, and gone afterwards."""
        if self._table is not None:
            self._table.close()
        self._table = sqlite3.connect("")
        self._table.execute("CREATE VIRTUAL TABLE documents USING fts5(text, tokenize='porter unicode61')")
        self._ids = list(corpus["id"])
        self._rows = {document: row for row, document in enumerate(self._ids)}
        titles = corpus["title"] if "title" in corpus.column_names else [""] * len(self._ids)
        rows = ((n, f"{title} {text}") for n, (title, text) in enumerate(zip(titles, corpus["text"], strict=True)))
        self._table.executemany("INSERT INTO documents(rowid, text) VALUES (?, ?)", rows)

    def search(
        self, queries: Any, *, top_k: int, top_ranked: dict[str, list[str]] | None = None, **kwargs: Any
    ) -> dict[str, dict[str, float]]:
        """Scores of the best documents per query, or of all candidates where they are given."""
        return {
            query: self._candidates(text, top_ranked[query]) if top_ranked else self._best(text, top_k)
            for query, text in zip(queries["id"], queries["text"], strict=True)
        }

    def _best(self, text: str, most: int) -> dict[str, float]:
        return {self._ids[row]: -score for row, score in self._ask(text, "ORDER BY rank LIMIT ?", (most,))}

    def _candidates(self, text: str, ids: list[str]) -> dict[str, float]:
        rows = {self._rows[i]: i for i in ids}
        found = self._ask(text, f"AND rowid IN ({','.join('?' * len(rows))})", tuple(rows))
        return dict.fromkeys(ids, 0.0) | {rows[row]: -score for row, score in found}

    def _ask(self, text: str, rest: str, values: tuple[Any, ...]) -> list[tuple[int, float]]:
        words = dict.fromkeys(re.findall(r"\w+", text.lower()))
        if self._table is None or not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)
        sql = f"SELECT rowid, bm25(documents) AS rank FROM documents WHERE documents MATCH ? {rest}"
        return list(self._table.execute(sql, (query, *values)))
