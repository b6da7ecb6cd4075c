"""mteb's abstract tasks with our data put in. The metrics, and every step to them, are mteb's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification, AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.text.summarization import AbsTaskSummarization

Rows = Sequence[Mapping[str, Any]]
T = TypeVar("T")
Category = Literal[
    "Retrieval", "Reranking", "Clustering", "PairClassification", "Classification", "STS", "Summarization"
]


def retrieval(
    name: str,
    revision: str,
    *,
    queries: Mapping[str, str],
    corpus: Mapping[str, tuple[str, str]],  # id -> title, text
    qrels: Mapping[str, Mapping[str, int]],
) -> AbsTaskRetrieval:
    """nDCG@10 of a search through the whole corpus."""
    return _made(
        _Retrieval,
        _metadata(name, "Retrieval", revision, "ndcg_at_10"),
        split=RetrievalSplitData(
            queries=Dataset.from_list([{"id": i, "text": text} for i, text in queries.items()]),
            corpus=Dataset.from_list([{"id": i, "title": t, "text": text} for i, (t, text) in corpus.items()]),
            relevant_docs={query: dict(judged) for query, judged in qrels.items()},
            top_ranked=None,
        ),
    )


def reranking(name: str, revision: str, rows: Rows) -> AbsTaskRetrieval:
    """MAP of each query's own candidates."""
    texts: dict[str, str] = {}  # a text that is a candidate twice is one document
    queries, relevant, candidates = [], {}, {}
    for number, row in enumerate(rows):
        query, right = f"q{number}", [str(text) for text in row["positive"]]
        queries.append({"id": query, "text": str(row["query"])})
        own = dict.fromkeys([*right, *map(str, row["negative"])])
        ids = {text: texts.setdefault(text, f"d{len(texts)}") for text in own}
        relevant[query] = {ids[text]: int(text in right) for text in own}
        candidates[query] = list(ids.values())
    return _made(
        _Retrieval,
        _metadata(name, "Reranking", revision, "map_at_1000"),
        split=RetrievalSplitData(
            queries=Dataset.from_list(queries),
            corpus=Dataset.from_list([{"id": i, "title": "", "text": text} for text, i in texts.items()]),
            relevant_docs=relevant,
            top_ranked=candidates,
        ),
    )


def clustering(name: str, revision: str, rows: Rows) -> AbsTaskClusteringLegacy:
    """V-measure of mini-batch k-means, per set of texts, as in the paper's benchmark."""
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        sets.setdefault(str(row.get("set", "")), []).append(row)
    columns = {
        "sentences": [[str(row["text"]) for row in part] for part in sets.values()],
        "labels": [[str(row["label"]) for row in part] for part in sets.values()],
    }
    metadata = _metadata(name, "Clustering", revision, "v_measure")
    return _made(_Clustering, metadata, splits={"test": Dataset.from_dict(columns)})


def pair_classification(name: str, revision: str, rows: Rows) -> AbsTaskPairClassification:
    """The best average precision among mteb's similarities."""
    columns = {
        "sentence1": [str(row["s1"]) for row in rows],
        "sentence2": [str(row["s2"]) for row in rows],
        "labels": [int(row["label"]) for row in rows],
    }
    metadata = _metadata(name, "PairClassification", revision, "max_ap")
    return _made(_PairClassification, metadata, splits={"test": Dataset.from_dict(columns)})


def classification(
    name: str, revision: str, train: Rows, test: Rows, *, samples_per_label: int
) -> AbsTaskClassification:
    """Accuracy of a logistic regression on a few training texts per label, mean of ten draws."""
    numbers = {label: n for n, label in enumerate(sorted({str(row["label"]) for row in train}))}
    return _made(
        _Classification,
        _metadata(name, "Classification", revision, "accuracy"),
        samples_per_label=samples_per_label,
        splits={
            split: Dataset.from_dict(
                {
                    "text": [str(row["text"]) for row in rows],
                    "label": [numbers.get(str(row["label"]), -1) for row in rows],  # -1: no training text has it
                }
            )
            for split, rows in (("train", train), ("test", test))
        },
    )


def sts(name: str, revision: str, rows: Rows, bounds: tuple[float, float]) -> AbsTaskSTS:
    """Spearman of cosine with the scores."""
    columns = {
        "sentence1": [str(row["s1"]) for row in rows],
        "sentence2": [str(row["s2"]) for row in rows],
        "score": [float(row["score"]) for row in rows],
    }
    metadata = _metadata(name, "STS", revision, "cosine_spearman")
    return _made(_STS, metadata, splits={"test": Dataset.from_dict(columns)}, min_score=bounds[0], max_score=bounds[1])


def summarization(name: str, revision: str, rows: Rows, bounds: tuple[float, float]) -> AbsTaskSummarization:
    """Spearman of closeness to human summaries with the relevance of machine summaries, mean over texts."""
    names = ("text", "human_summaries", "machine_summaries", "relevance")
    columns = {column: [row[column] for row in rows] for column in names}
    metadata = _metadata(name, "Summarization", revision, "cosine_spearman")
    return _made(
        _Summarization, metadata, splits={"test": Dataset.from_dict(columns)}, min_score=bounds[0], max_score=bounds[1]
    )


def _metadata(name: str, kind: Category, revision: str, main_score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        type=kind,
        main_score=main_score,
        dataset={"path": "local", "revision": revision},
        description=f"{kind} over local files.",
        category="t2c" if kind in ("Classification", "Clustering") else "t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
    )


def _made(base: type[T], metadata: TaskMetadata, **attributes: Any) -> T:
    """A task of a class of its own: mteb reads metadata off the class, and drops the instance's when it unloads."""
    made: type[T] = type(metadata.name, (base,), {"metadata": metadata, **attributes})
    return made()


class _Retrieval(AbsTaskRetrieval):
    split: RetrievalSplitData

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        # A copy: scoring drops the queries that nothing is relevant to from what it is given.
        self.dataset = {"default": {"test": RetrievalSplitData(**self.split)}}
        self.data_loaded = True


class _Splits:
    """Data that is there already, for tasks that keep one dataset per split."""

    splits: dict[str, Dataset]

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        self.dataset = DatasetDict(self.splits)
        self.data_loaded = True


class _Clustering(_Splits, AbsTaskClusteringLegacy):
    pass


class _PairClassification(_Splits, AbsTaskPairClassification):
    pass


class _Classification(_Splits, AbsTaskClassification):
    pass


class _STS(_Splits, AbsTaskSTS):
    pass


class _Summarization(_Splits, AbsTaskSummarization):
    pass
