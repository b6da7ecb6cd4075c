"""Lexical, dense and hybrid search on Cranfield, CISI and LISA: nDCG@10, and what the fusion's settings are worth.

    python bench/retrieval.py --data ../shared/data --json bench/results/retrieval.json
    python bench/retrieval.py --data ../shared/data --mode reason --sets cranfield --json bench/results/rationales.json
    python bench/retrieval.py --data ../shared/data --model lsa --json bench/results/retrieval_lsa.json  (no model)
    python bench/retrieval.py --data ../shared/data --lexical --json bench/results/lexical.json          (no model)

Dense vectors are the model's, in direct mode unless `--mode reason`, where documents are found by the words of their
rationales, too. `lsa` stands for a strong model: latent semantic analysis of each collection in 128 dimensions. Fusion
is chosen on one half of the queries and judged on the other, both ways round, so that no query judges what it helped to
choose. With `--kept FOLDER` a run that was cut off resumes, and a second one asks no model.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import argparse
import gzip
import hashlib
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
from grace_server.index.collection import RATIONALE_WEIGHT, Collection
from grace_server.index.edges import Edges
from grace_server.index.fusion import FUSION_DEPTH, RANK_CONSTANT, fuse
from grace_server.index.lexical import search_words
from grace_server.index.searching import DENSE_WEIGHT
from grace_server.index.settings import CollectionSettings
from grace_server.index.vector_index import Neighbours

SETS = ("cranfield", "cisi", "lisa")
CONSTANTS = (5.0, 10.0, 20.0, 40.0, 60.0)
DENSE_WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)  # beside 1 for lexical
DEFAULT = (RANK_CONSTANT, DENSE_WEIGHT)
RATIONALE_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
AT_ONCE = 200  # texts between two files that are kept
LSA = "lsa"
LSA_DIMENSIONS = 128

Choice = tuple[float, float]  # rank constant, weight of the dense list


@dataclass
class Asked:
    """A query with what was found for it, and what should be."""

    gains: dict[str, float]
    dense: Neighbours
    lexical: Neighbours
    ids: dict[int, str]  # of all lists
    by_weight: dict[float, Neighbours]  # lexical, by the weight of a word in the rationale

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


@dataclass
class Made:
    """What a model made of some texts."""

    vectors: npt.NDArray[np.float32]  # (N, H)
    rationales: list[str]  # empty where it wrote none


def made_by(model: Grace, texts: list[str], role: Any, mode: Any, kept: Path | None) -> Made:
    """Vectors and rationales, a file of them for every 200 texts."""
    vectors, rationales = [], []
    for start in range(0, len(texts), AT_ONCE):
        some = texts[start : start + AT_ONCE]
        asked = json.dumps([model.checkpoint.fingerprint, role, mode, some]).encode()
        file = None if kept is None else kept / f"{hashlib.sha256(asked).hexdigest()[:32]}.npz"
        if file is None or not file.exists():
            found = model.represent(some, role=role, mode=mode)
            rows = np.stack([one.vector(model.checkpoint.config.pooling) for one in found])
            words = [one.rationale.text if one.rationale else "" for one in found]
            if file is not None:
                np.savez(file, vectors=rows, rationales=np.array(words))
        else:
            with np.load(file) as stored:
                rows, words = stored["vectors"], stored["rationales"].tolist()
        vectors.append(rows)
        rationales += words
    return Made(np.concatenate(vectors), rationales)


def made_by_lsa(texts: list[str], queries: list[str]) -> tuple[Made, Made]:
    """Latent semantic analysis, fitted on the documents alone."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    words = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    plane = TruncatedSVD(LSA_DIMENSIONS, random_state=0)
    documents = normalize(plane.fit_transform(words.fit_transform(texts)) + 1e-9)
    asked = normalize(plane.transform(words.transform(queries)) + 1e-9)
    return Made(documents.astype(np.float32), [""] * len(texts)), Made(asked.astype(np.float32), [""] * len(queries))


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


def measure(folder: Path, model: Grace | None, mode: Any, kept: Path | None, data_dir: Path) -> list[Asked]:
    """Ask a collection of all documents every query. `model` None: latent semantic analysis."""
    gains, texts, queries = read(folder)
    bodies, words = [text or "." for text in texts.values()], [query["text"] for query in queries]
    if model is None:
        documents, asked = made_by_lsa(bodies, words)
    else:
        documents = made_by(model, bodies, "document", mode, kept)
        asked = made_by(model, words, "query", mode, kept)
    catalog = Catalog(data_dir, Edges())
    dimensions = documents.vectors.shape[1]
    collection = catalog.create(folder.name, CollectionSettings(), dimensions=dimensions, fingerprint=None)
    collection.upsert(
        [
            {"id": i, "text": text, "vector": vector, "rationale": rationale or None}
            for (i, text), vector, rationale in zip(texts.items(), documents.vectors, documents.rationales, strict=True)
        ]
    )
    answers = [ask(collection, *pair, gains) for pair in zip(queries, asked.vectors, strict=True)]
    catalog.close()
    return answers


def ask(
    collection: Collection, query: dict[str, Any], vector: npt.NDArray[np.float32], gains: dict[str, dict[str, float]]
) -> Asked:
    def words(weight: float) -> Neighbours:
        return collection.store.read(
            lambda c: search_words(c, query["text"], k=FUSION_DEPTH, clause=None, rationale_weight=weight)
        )

    [dense] = collection.dense(vector[None], FUSION_DEPTH)
    lexical = {weight: words(weight) for weight in {*RATIONALE_WEIGHTS, RATIONALE_WEIGHT}}
    labels = np.unique(np.concatenate([dense.labels, *(found.labels for found in lexical.values())]))
    ids = {n: d.id for n, d in collection.documents(labels).items()}
    return Asked(gains[query["id"]], dense, lexical[RATIONALE_WEIGHT], ids, lexical)


def mean(values: list[float]) -> float:
    return round(statistics.fmean(values), 4)


def best(halves: list[list[Asked]], choices: list[Choice]) -> Choice:
    """The choice with the highest nDCG, averaged over the collections."""
    return max(choices, key=lambda c: statistics.fmean(statistics.fmean(a.hybrid(c) for a in half) for half in halves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default=BUNDLED_NAME, help=f"a checkpoint, or {LSA}")
    parser.add_argument("--sets", choices=SETS, nargs="+", default=SETS)
    parser.add_argument("--kept", type=Path, help="keep what the model made there")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="transformers")
    parser.add_argument("--mode", choices=("direct", "reason"), default="direct")
    parser.add_argument("--lexical", action="store_true", help="lexical search alone")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    use_threads(1)
    if arguments.lexical:
        with tempfile.TemporaryDirectory() as folder:
            report({f"{n}_lexical": lexical(arguments.data / n, Path(folder)) for n in arguments.sets}, arguments.json)
        return
    figures: dict[str, Any] = {"model": arguments.model}
    model = None
    if arguments.model != LSA:
        model = Grace.load(arguments.model, engine=arguments.engine)
        figures |= {"mode": arguments.mode, "fingerprint": model.checkpoint.fingerprint}
    if arguments.kept:
        arguments.kept.mkdir(parents=True, exist_ok=True)
    asked: dict[str, list[Asked]] = {}
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as folder:
            asked[name] = measure(arguments.data / name, model, arguments.mode, arguments.kept, Path(folder))
    for name, answers in asked.items():
        figures[f"{name}_lexical"] = mean([a.ndcg(a.lexical) for a in answers])
        figures[f"{name}_dense"] = mean([a.ndcg(a.dense) for a in answers])
        figures[f"{name}_hybrid"] = mean([a.hybrid(DEFAULT) for a in answers])
    for kind in ("lexical", "dense", "hybrid"):
        figures[f"mean_{kind}"] = mean([figures[f"{name}_{kind}"] for name in asked])
    figures["mean_better_of_two"] = mean([max(figures[f"{n}_lexical"], figures[f"{n}_dense"]) for n in asked])
    if arguments.mode == "reason":
        for weight in RATIONALE_WEIGHTS:
            scores = [statistics.fmean(a.ndcg(a.by_weight[weight]) for a in answers) for answers in asked.values()]
            figures[f"mean_lexical_rationale_weight_{weight:g}"] = mean(scores)

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
