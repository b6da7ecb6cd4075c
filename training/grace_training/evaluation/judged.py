"""Queries, documents and who is relevant to whom: the plain folder that retrieval is measured on.

    corpus.jsonl    {"id", "title"?, "text"}
    queries.jsonl   {"id", "text"}
    qrels.tsv       query-id  corpus-id  score

Each packed with gzip or xz, or not at all; a name may begin with a prefix, as `studies-corpus.jsonl.gz`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grace_training.data import rows
from grace_training.errors import BadData
from grace_training.evaluation.suite_rows import by_id, judgements

SHIPPED = Path(__file__).parent / "suites" / "small"
SHIPPED_PREFIX = "studies-"
_PACKED = ("", ".gz", ".xz")


@dataclass(frozen=True, slots=True)
class Judged:
    """A collection, whose queries each have a relevant document."""

    name: str
    queries: dict[str, str]
    corpus: dict[str, str]  # title and text, as one
    relevant: dict[str, dict[str, int]]  # query -> document -> grade above 0

    def cut(self, *, queries: int, documents: int) -> Judged:
        """The first so many queries, their relevant documents, and others up to so many, in the order they came."""
        kept = dict(list(self.queries.items())[:queries])
        relevant = {query: self.relevant[query] for query in kept}
        needed = {document for judged in relevant.values() for document in judged}
        others = [document for document in self.corpus if document not in needed]
        wanted = needed | set(others[: max(0, documents - len(needed))])
        return Judged(self.name, kept, {d: text for d, text in self.corpus.items() if d in wanted}, relevant)


def load(folder: Path | None) -> Judged:
    """Read a folder, or the shipped set of abstracts of studies.

    Raises:
        BadData: a file is not there, or no query has a relevant document that is.
    """
    prefix = SHIPPED_PREFIX if folder is None else ""
    where = SHIPPED if folder is None else folder
    corpus = {
        document: f"{row.get('title') or ''} {row['text']}".strip()
        for document, row in _rows(_file(where, prefix, "corpus.jsonl")).items()
    }
    texts = {query: str(row["text"]) for query, row in _rows(_file(where, prefix, "queries.jsonl")).items()}
    relevant: dict[str, dict[str, int]] = {}
    for query, grades in judgements(_file(where, prefix, "qrels.tsv")).items():
        for document, grade in grades.items():
            if grade > 0 and query in texts and corpus.get(document):
                relevant.setdefault(query, {})[document] = grade
    if not relevant:
        raise BadData(f"{where}: no query has a relevant document")
    name = prefix.rstrip("-") or where.name
    return Judged(name, {q: text for q, text in texts.items() if q in relevant}, corpus, relevant)


def ndcg(order: NDArray[np.integer[Any]], gains: NDArray[np.floating[Any]], *, depth: int = 10) -> float:
    """Discounted cumulative gain of a ranking (N,), best first, over the best that grades `gains` (N,) allow."""
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    found = gains[order[:depth]]
    best = np.sort(gains)[::-1][:depth]
    ideal = float(best @ discounts[: len(best)])
    return float(found @ discounts[: len(found)]) / ideal if ideal > 0 else 0.0


def _file(folder: Path, prefix: str, name: str) -> Path:
    for packed in _PACKED:
        if (path := folder / f"{prefix}{name}{packed}").exists():
            return path
    raise BadData(f"{folder}: there is no {prefix}{name} (.gz, .xz)")


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    found = []
    for where, row in rows(str(path)):
        if isinstance(row, BadData):
            raise row
        if not isinstance(row, dict) or row.get("id") is None or row.get("text") is None:
            raise BadData(f"{where}: a row must have id and text")
        found.append(row)
    return by_id(found, path)
