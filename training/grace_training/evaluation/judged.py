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

from grace_training.data import open_text, rows
from grace_training.errors import BadData

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
        str(row["id"]): f"{row.get('title') or ''} {row['text']}".strip()
        for row in _rows(_file(where, prefix, "corpus.jsonl"))
    }
    texts = {str(row["id"]): str(row["text"]) for row in _rows(_file(where, prefix, "queries.jsonl"))}
    relevant: dict[str, dict[str, int]] = {}
    path = _file(where, prefix, "qrels.tsv")
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split("\t")
            if number == 1 and not fields[-1].strip().lstrip("-").isdigit():
                continue  # a header
            try:
                query, document, grade = fields[0], fields[1], int(fields[2])
            except (IndexError, ValueError) as error:
                raise BadData(
                    f"{path.name}:{number}: must be query-id, corpus-id and a whole score, by tabs"
                ) from error
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


def _rows(path: Path) -> list[dict[str, Any]]:
    found = []
    for where, row in rows(str(path)):
        if isinstance(row, BadData):
            raise row
        if not isinstance(row, dict) or row.get("id") is None or row.get("text") is None:
            raise BadData(f"{where}: a row must have id and text")
        found.append(row)
    return found
