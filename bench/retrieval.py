"""Lexical, dense and hybrid search on Cranfield, CISI and LISA: nDCG@10, and what the fusion's settings are worth.

    python bench/retrieval.py --data ../shared/data --json bench/results/retrieval.json
    python bench/retrieval.py --data ../shared/data --lexical --json bench/results/lexical.json    (no model: a minute)

Dense vectors are the model's, in direct mode unless `--mode reason`. Fusion is chosen on one half of the queries and
judged on the other, both ways round, so that no query judges what it helped to choose.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import argparse
import gzip
import json
import math
import statistics
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench._shared import report
from grace.checkpoint import BUNDLED_NAME
from grace.model import Grace
from grace_server.index.approximate import use_threads
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.fusion import RANK_CONSTANT, fuse
from grace_server.index.searching import FUSION_DEPTH, FUSION_WEIGHTS
from grace_server.index.settings import CollectionSettings
from grace_server.index.vector_index import Neighbours

SETS = ("cranfield", "cisi", "lisa")
CONSTANTS = (5.0, 10.0, 20.0, 40.0, 60.0)
DENSE_WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)  # beside 1 for lexical
DEFAULT = (RANK_CONSTANT, FUSION_WEIGHTS[0] / FUSION_WEIGHTS[1])

Choice = tuple[float, float]  # rank constant, weight of the dense list


@dataclass
class Asked:
    """A query with what was found for it, and what should be."""

    gains: dict[str, float]
    dense: Neighbours
    lexical: Neighbours
    ids: dict[int, str]  # of both lists

    def ndcg(self, ranked: Neighbours) -> float:
        return ndcg([self.gains.get(self.ids[label], 0.0) for label in ranked.labels[:10].tolist()], self.gains)

    def hybrid(self, choice: Choice) -> float:
        constant, weight = choice
        return self.ndcg(fuse([self.dense, self.lexical], weights=(weight, 1.0), rank_constant=constant))


def ndcg(found: list[float], gains: dict[str, float], k: int = 10) -> float:
    """Järvelin and Kekäläinen's, as trec_eval computes it: the gain is the grade, the discount log2(rank + 1)."""
    ideal = sorted(gains.values(), reverse=True)[:k]
    return sum(g / math.log2(i + 2) for i, g in enumerate(found[:k])) / sum(
        g / math.log2(i + 2) for i, g in enumerate(ideal)
    )


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def judgements(path: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        next(file)
        for line in file:
            query, document, grade = line.split()
            if float(grade) > 0:
                found.setdefault(query, {})[document] = float(grade)
    return found


def ask(
    collection: Collection, queries: list[dict[str, Any]], vectors: npt.NDArray[np.float32], gains: Any
) -> list[Asked]:
    asked = []
    for query, vector in zip(queries, vectors, strict=True):
        [dense] = collection.dense(vector[None], FUSION_DEPTH)
        lexical = collection.lexical(query["text"], FUSION_DEPTH)
        documents = collection.documents(np.union1d(dense.labels, lexical.labels))
        asked.append(Asked(gains[query["id"]], dense, lexical, {n: d.id for n, d in documents.items()}))
    return asked


def read(folder: Path) -> tuple[dict[str, dict[str, float]], dict[str, str], list[dict[str, Any]]]:
    """Judgements, texts by document, judged queries."""
    gains = judgements(folder / "qrels.tsv.gz")
    corpus = lines(folder / "corpus.jsonl.gz")
    texts = {d["id"]: "\n\n".join(part for part in (d.get("title"), d["text"]) if part) for d in corpus}
    return gains, texts, [query for query in lines(folder / "queries.jsonl.gz") if query["id"] in gains]


def lexical(folder: Path, data_dir: Path) -> float:
    """nDCG@10 of lexical search, without a model: documents that wait for a vector are found by their words."""
    gains, texts, queries = read(folder)
    catalog = Catalog(data_dir, Edges())
    collection = catalog.create(folder.name, CollectionSettings(), dimensions=1, fingerprint=None)
    collection.upsert([{"id": i, "text": text} for i, text in texts.items()])
    scores = []
    for query in queries:
        found = collection.lexical(query["text"], 10)
        documents = collection.documents(found.labels)
        ids = [documents[label].id for label in found.labels.tolist()]
        scores.append(ndcg([gains[query["id"]].get(i, 0.0) for i in ids], gains[query["id"]]))
    catalog.close()
    return mean(scores)


def measure(folder: Path, model: Grace, mode: Any, data_dir: Path) -> list[Asked]:
    gains, texts, queries = read(folder)
    found = model.encode([text or "." for text in texts.values()], role="document", mode=mode)
    asked = model.encode([query["text"] for query in queries], role="query", mode=mode)
    catalog = Catalog(data_dir, Edges())
    collection = catalog.create(folder.name, CollectionSettings(), dimensions=found.shape[1], fingerprint=None)
    collection.upsert([{"id": i, "text": t, "vector": v} for (i, t), v in zip(texts.items(), found, strict=True)])
    answers = ask(collection, queries, asked, gains)
    catalog.close()
    return answers


def mean(values: list[float]) -> float:
    return round(statistics.fmean(values), 4)


def best(halves: list[list[Asked]], choices: list[Choice]) -> Choice:
    """The choice with the highest nDCG, averaged over the collections."""
    return max(choices, key=lambda c: statistics.fmean(statistics.fmean(a.hybrid(c) for a in half) for half in halves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default=BUNDLED_NAME)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="transformers")
    parser.add_argument("--mode", choices=("direct", "reason"), default="direct")
    parser.add_argument("--lexical", action="store_true", help="lexical search alone")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    use_threads(1)
    if arguments.lexical:
        with tempfile.TemporaryDirectory() as folder:
            report({f"{n}_lexical": lexical(arguments.data / n, Path(folder)) for n in SETS}, arguments.json)
        return
    figures: dict[str, Any] = {"model": arguments.model, "mode": arguments.mode}
    model = Grace.load(arguments.model, engine=arguments.engine)
    figures["fingerprint"] = model.checkpoint.fingerprint
    with tempfile.TemporaryDirectory() as folder:
        asked = {name: measure(arguments.data / name, model, arguments.mode, Path(folder)) for name in SETS}
    for name, answers in asked.items():
        figures[f"{name}_lexical"] = mean([a.ndcg(a.lexical) for a in answers])
        figures[f"{name}_dense"] = mean([a.ndcg(a.dense) for a in answers])
        figures[f"{name}_hybrid"] = mean([a.hybrid(DEFAULT) for a in answers])
    for kind in ("lexical", "dense", "hybrid"):
        figures[f"mean_{kind}"] = mean([figures[f"{name}_{kind}"] for name in SETS])
    figures["mean_better_of_two"] = mean([max(figures[f"{n}_lexical"], figures[f"{n}_dense"]) for n in SETS])

    choices = [(constant, weight) for constant in CONSTANTS for weight in DENSE_WEIGHTS]
    for choice in choices:
        name = f"mean_hybrid_constant_{choice[0]:g}_dense_{choice[1]:g}"
        figures[name] = mean([statistics.fmean(a.hybrid(choice) for a in answers) for answers in asked.values()])
    halves = [[answers[start::2] for answers in asked.values()] for start in (0, 1)]
    held_out: dict[str, list[list[float]]] = {"chosen": [], "default": [], "lexical": [], "dense": []}
    for chosen_on, judged_on in (halves, halves[::-1]):
        choice = best(chosen_on, choices)
        figures[f"chosen_on_half_{len(held_out['chosen'])}"] = f"constant {choice[0]:g}, dense {choice[1]:g}"
        for kind in held_out:
            score = {
                "chosen": lambda a, choice=choice: a.hybrid(choice),
                "default": lambda a: a.hybrid(DEFAULT),
                "lexical": lambda a: a.ndcg(a.lexical),
                "dense": lambda a: a.ndcg(a.dense),
            }[kind]
            held_out[kind].append([statistics.fmean(score(a) for a in answers) for answers in judged_on])
    for kind, scores in held_out.items():
        figures[f"held_out_{kind}"] = mean([score for half in scores for score in half])
    report(figures, arguments.json)


if __name__ == "__main__":
    main()
