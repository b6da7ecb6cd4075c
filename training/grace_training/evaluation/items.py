"""From what mteb predicted to what can be resampled: a task's items, whose statistic is the task's score.

The statistics themselves are mteb's and scikit-learn's. `statistic` recomputes a group's, and a group that does not
come to the score mteb gave is not kept: better no interval than one of another number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.clustering import AbsTaskClustering
from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
from mteb.abstasks.text.summarization import AbsTaskSummarization
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, v_measure_score

from grace_training.evaluation.results import Group

_TOLERANCE = 1e-4
_ALIKE = {  # the predictions of pair classification, and which way they point
    "similarity_scores": 1,
    "cosine_scores": 1,
    "dot_scores": 1,
    "manhattan_distances": -1,
    "euclidean_distances": -1,
}


class Collector:
    """Takes down what mteb computes for a task while it is evaluated."""

    def __init__(self, task: AbsTask, folder: Path) -> None:
        self._task = task
        # The rankings of a large retrieval task would fill gigabytes of JSON: there, scores per query are taken down.
        self.prediction_folder = None if isinstance(task, AbsTaskRetrieval) else folder
        self._per_query: dict[tuple[str, str], Mapping[str, Mapping[str, float]]] = {}
        if isinstance(task, AbsTaskRetrieval):
            inner = task.task_specific_scores

            def take_down(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> dict[str, float]:
                self._per_query[hf_split, hf_subset] = scores
                return inner(scores, qrels, results, hf_split=hf_split, hf_subset=hf_subset)

            task.task_specific_scores = take_down  # type: ignore[method-assign]

    def groups(self, scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[Group, ...]:
        """A group per split and subset, of those that can be resampled; none if any cannot."""
        predictions: dict[str, Any] = {}
        if self.prediction_folder is not None:
            path = self.prediction_folder / self._task.prediction_file_name
            if path.exists():
                predictions = json.loads(path.read_text(encoding="utf-8"))
        groups = []
        for split, entries in scores.items():
            for entry in entries:
                subset = str(entry["hf_subset"])
                group = self._group(split, subset, entry, predictions.get(subset, {}).get(split))
                if group is None or not math.isclose(statistic(group), entry["main_score"], abs_tol=_TOLERANCE):
                    return ()
                groups.append(group)
        return tuple(groups)

    def _group(self, split: str, subset: str, entry: Mapping[str, Any], predicted: Any) -> Group | None:
        task = self._task
        name = subset if subset != "default" else split
        match task:
            case AbsTaskRetrieval():
                per_query = self._per_query.get((split, subset))
                return None if per_query is None else _per_query(name, per_query, task.metadata.main_score)
            case AbsTaskClustering():
                values = [v for level in entry["v_measures"].values() for v in level]
                return Group(name, "mean", values=tuple(map(float, values)))
            case AbsTaskClusteringLegacy():
                values = entry["v_measures"]
                if len(values) > 1:
                    return Group(name, "mean", values=tuple(map(float, values)))
                labels = self._column(split, subset, task.label_column_name)
                return _clusters(name, labels[0] if isinstance(labels[0], list) else labels, predicted[0])
            case AbsTaskClassification():
                labels = self._column(split, subset, task.label_column_name)
                right = np.mean([[p == y for p, y in zip(one, labels, strict=True)] for one in predicted], axis=0)
                return Group(name, "mean", values=tuple(map(float, right)))
            case AbsTaskPairClassification():
                labels = self._column(split, subset, task.label_column_name)
                labels = labels[0] if isinstance(labels[0], list) else labels
                towards = {k: tuple(sign * float(v) for v in predicted[k]) for k, sign in _ALIKE.items()}
                return Group(name, "max_ap", predicted=towards, gold=tuple(map(float, labels)))
            case AbsTaskSTS():
                gold = tuple(float(score) for score in self._column(split, subset, "score"))
                return Group(name, "spearman", predicted={"cosine": tuple(predicted["cosine_scores"])}, gold=gold)
            case AbsTaskSummarization():
                pairs = zip(predicted["human_scores"], predicted["cosine_scores"], strict=True)
                return Group(name, "mean", values=tuple(float(spearmanr(a, b).statistic) for a, b in pairs))
            case _:
                return None

    def _column(self, split: str, subset: str, column: str) -> list[Any]:
        data: Any = self._task.dataset
        return list(data.get(subset, data)[split][column])


def statistic(group: Group) -> float:
    """The score that a group's items come to."""
    match group.kind:
        case "mean":
            return float(np.mean(group.values))
        case "spearman":
            return float(spearmanr(group.gold, group.predicted["cosine"]).statistic)
        case "max_ap":
            return max(float(average_precision_score(group.gold, p)) for p in group.predicted.values())
        case "v_measure":
            return float(v_measure_score(group.gold, group.predicted["cluster"]))
    raise ValueError(f"unknown kind of items {group.kind!r}")


def _per_query(name: str, scores: Mapping[str, Mapping[str, float]], main_score: str) -> Group | None:
    family, _, cut = main_score.partition("_at_")
    key = {"ndcg": "ndcg_cut_", "map": "map_cut_", "recall": "recall_", "precision": "P_"}.get(family)
    if key is None:
        return None
    ids = tuple(scores)
    return Group(name, "mean", ids=ids, values=tuple(float(scores[i][f"{key}{cut}"]) for i in ids))


def _clusters(name: str, labels: Sequence[Any], assigned: Sequence[int]) -> Group:
    numbers = {label: float(n) for n, label in enumerate(dict.fromkeys(labels))}
    clusters = tuple(map(float, assigned))
    return Group(name, "v_measure", predicted={"cluster": clusters}, gold=tuple(numbers[y] for y in labels))
