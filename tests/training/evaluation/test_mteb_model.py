"""The numbers are mteb's: on its mock tasks of all seven categories, through the engine that serves."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.abstasks import AbsTask
from mteb.mocks.mock_tasks.classification import MockClassificationTask
from mteb.mocks.mock_tasks.clustering import MockClusteringTask
from mteb.mocks.mock_tasks.pair_classification import MockPairClassificationTask
from mteb.mocks.mock_tasks.reranking import MockRerankingTask
from mteb.mocks.mock_tasks.retrieval import MockRetrievalTask
from mteb.mocks.mock_tasks.sts import MockMultilingualSTSTask, MockSTSTask
from mteb.mocks.mock_tasks.summarization import MockSummarizationTask
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from grace import Grace
from grace_training.evaluation.embedding import Embedder
from grace_training.evaluation.evaluate import Harness
from grace_training.evaluation.items import statistic
from grace_training.evaluation.mteb_model import GraceEncoder, model_meta, model_name
from grace_training.evaluation.report_entries import entries
from grace_training.evaluation.representations import Shelf
from grace_training.evaluation.results import (
    CATEGORIES,
    OWN,
    Run,
    items_path,
    read_items,
    read_run,
    run_name,
    runs,
    write_run,
)
from tests.training.evaluation.conftest import Bench

MOCKS: dict[str, type[AbsTask]] = {
    "Retrieval": MockRetrievalTask,
    "Reranking": MockRerankingTask,
    "Clustering": MockClusteringTask,
    "PairClassification": MockPairClassificationTask,
    "Classification": MockClassificationTask,
    "STS": MockSTSTask,
    "Summarization": MockSummarizationTask,
}
RUN = Run("tiny", "reasoning", "tiny", "f" * 32, "mean", 32)


class Plain(AbsEncoder):
    """The plainest model of mteb's protocol: vectors of all texts, computed before, by role."""

    def __init__(self, grace: Grace) -> None:
        self._grace = grace
        self.mteb_model_meta = model_meta("plain/plain", revision="1")

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **kwargs: Any) -> Any:
        texts = [text for batch in inputs for text in batch["text"]]
        return self._grace.encode(texts, role="query" if prompt_type == PromptType.query else "document")


@pytest.fixture(scope="module")
def served(model_folder: Path) -> Iterator[Grace]:
    with Grace.load(model_folder, dtype="float32", kv_cache_gib=0.2) as loaded:
        yield loaded


def test_the_seven_categories_are_mocked() -> None:
    assert tuple(MOCKS) == CATEGORIES


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_score_is_mtebs_own_and_its_items_come_to_it(served: Grace, tmp_path: Path, category: str) -> None:
    task = MOCKS[category]()
    shelf = Shelf(tmp_path / "shelf", poolings=("mean",), hidden=served.checkpoint.hidden_size)
    embedder = Embedder(served.checkpoint, served.prompter, lambda: served, shelf, show_progress=False)
    model = GraceEncoder(embedder, "mean", model_meta("local/tiny", revision="1"))
    run = Harness(tmp_path, show_progress=False).run(RUN, model, [task])
    (record,) = run.tasks
    assert record.reason is None
    assert record.category == category
    plain = mteb.evaluate(Plain(served), MOCKS[category](), cache=None, co2_tracker=False).task_results[0]
    assert record.score == pytest.approx(plain.get_score(), abs=1e-6)
    path = tmp_path / "results" / "local__tiny" / "1" / OWN / "run.json"
    items = read_items(path, record.task)
    assert items is not None
    assert np.mean([statistic(group) for group in items.groups]) == pytest.approx(record.score, abs=1e-4)
    loaded = mteb.ResultCache(tmp_path).load_task_result(record.task, model.mteb_model_meta)
    assert loaded is not None
    assert loaded.get_score() == pytest.approx(record.score, abs=1e-5)  # mteb rounds what it writes


def hashed(texts: Iterable[str]) -> np.ndarray:
    """A vector per text, out of its hash."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
    return np.array([np.random.default_rng(seed).standard_normal(8) for seed in seeds], np.float32)


class Recorder:
    """An embedder that takes down what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def vectors(self, texts: Any, role: str, representation: str) -> np.ndarray:
        found = list(texts)
        self.asked += [(role, text) for text in found]
        return hashed(found)


@pytest.mark.parametrize("category", CATEGORIES)
def test_queries_are_read_as_queries_and_documents_with_their_titles(category: str) -> None:
    recorder = Recorder()
    model = GraceEncoder(recorder, "mean", model_meta("local/tiny", revision="1"))  # type: ignore[arg-type]
    task = MOCKS[category]()
    mteb.evaluate(model, task, cache=None, co2_tracker=False)
    roles = {role for role, _ in recorder.asked}
    if category not in ("Retrieval", "Reranking"):
        assert roles == {"document"}
        return
    assert ("query", "This is a test sentence") in recorder.asked
    assert ("document", "Title of d1 This is a positive sentence") in recorder.asked
    assert roles == {"query", "document"}


def test_the_papers_benchmark_has_its_56_tasks_in_english_with_their_splits() -> None:
    tasks = list(mteb.get_benchmark("MTEB(eng, v1)").tasks)
    kinds = [str(task.metadata.type) for task in tasks]
    assert [kinds.count(kind) for kind in CATEGORIES] == [15, 4, 11, 3, 12, 10, 1]
    by_name = {task.metadata.name: task for task in tasks}
    assert list(by_name["MSMARCO"].eval_splits) == ["dev"]
    assert by_name["STS17"].hf_subsets == ["en-en"]
    assert by_name["STS22"].hf_subsets == ["en"]
    assert by_name["MassiveIntentClassification"].hf_subsets == ["en"]
    assert by_name["AmazonReviewsClassification"].hf_subsets == ["en"]
    for task in tasks:
        assert "train" not in task.eval_splits, task.metadata.name


class Broken(AbsEncoder):
    mteb_model_meta = model_meta("local/broken", revision="1")

    def encode(self, inputs: Any, *, task_metadata: Any, **kwargs: Any) -> Any:
        texts = [text for batch in inputs for text in batch["text"]]
        if task_metadata.type == "STS":
            raise RuntimeError("out of cheese")
        if task_metadata.type == "Classification":
            return np.zeros((len(texts), 4), np.float32)
        return np.random.default_rng(len(texts)).standard_normal((len(texts), 4))


def test_a_task_that_fails_is_kept_with_its_reason_and_without_a_score(tmp_path: Path) -> None:
    harness = Harness(tmp_path, show_progress=False)
    run = harness.run(RUN, Broken(), [MockSTSTask(), MockRetrievalTask()])
    failed, done = run.record("MockSTSTask"), run.record("MockRetrievalTask")
    assert failed is not None
    assert failed.status == "failed"
    assert failed.score is None
    assert failed.reason == "RuntimeError: out of cheese"
    assert done is not None
    assert done.status == "done"
    assert set(run.expected) == {"MockSTSTask", "MockRetrievalTask"}
    ((_, stored),) = runs(tmp_path)
    assert stored == run


def test_what_is_done_is_not_done_again_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    harness = Harness(tmp_path, show_progress=False)
    harness.run(RUN, Broken(), [MockSTSTask(), MockRetrievalTask()])

    class Mended(Broken):
        calls: list[str] = []  # noqa: RUF012

        def encode(self, inputs: Any, *, task_metadata: Any, **kwargs: Any) -> Any:
            self.calls.append(task_metadata.name)
            return hashed(text for batch in inputs for text in batch["text"])

    run = harness.run(RUN, Mended(), [MockSTSTask(), MockRetrievalTask()])
    assert set(Mended.calls) == {"MockSTSTask"}
    assert all(record.status == "done" for record in run.tasks)


class TwoSplits(MockSTSTask):
    """The mock with its pairs turned around in a split of its own, where what scores well there scores badly."""

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        super().load_data()
        test: Any = self.dataset["test"]  # type: ignore[index]
        self.dataset["dev"] = test.remove_columns("score").add_column("score", [1 - s for s in test["score"]])  # type: ignore[index]


class Sound(AbsEncoder):
    """A model that counts what it is asked for."""

    mteb_model_meta = model_meta("local/sound", revision="1")

    def __init__(self) -> None:
        self.calls: list[str] = []

    def encode(self, inputs: Any, *, task_metadata: Any, **kwargs: Any) -> Any:
        self.calls.append(task_metadata.name)
        return hashed(text for batch in inputs for text in batch["text"])


def test_two_benchmarks_in_one_folder_are_two_rows_each_with_its_own_tasks_and_scores(tmp_path: Path) -> None:
    one = Harness(tmp_path, benchmark="one", show_progress=False)
    other = Harness(tmp_path, benchmark="MTEB(other, v1)", show_progress=False)
    first = one.run(RUN, Sound(), [TwoSplits(), MockRetrievalTask()])
    second = other.run(RUN, Sound(), [TwoSplits().filter_eval_splits(["dev"]), MockSummarizationTask()])
    assert [run for _, run in runs(tmp_path)] == [second, first]
    assert set(first.expected) == {"MockSTSTask", "MockRetrievalTask"}
    assert set(second.expected) == {"MockSTSTask", "MockSummarizationTask"}
    for entry in entries(runs(tmp_path)):
        ((path, run),) = [(seeded.path, seeded.run) for seeded in entry.runs]
        assert entry.key.benchmark == run.benchmark
        for record in run.tasks:
            items = read_items(path, record.task)
            assert items is not None
            assert np.mean([statistic(group) for group in items.groups]) == pytest.approx(record.score)
    scores = [run.record("MockSTSTask").score for run in (first, second)]  # type: ignore[union-attr]
    assert scores[0] == pytest.approx(-scores[1])  # type: ignore[operator]


def test_a_task_is_done_again_when_other_splits_or_subsets_are_asked_for(tmp_path: Path) -> None:
    harness = Harness(tmp_path, benchmark="one", show_progress=False)

    def asked(task: AbsTask) -> int:
        model = Sound()
        (record,) = harness.run(RUN, model, [task]).tasks
        assert record.status == "done", record.reason
        return len(model.calls)

    assert asked(TwoSplits())
    assert not asked(TwoSplits())
    assert asked(TwoSplits().filter_eval_splits(["dev"]))
    assert asked(TwoSplits().filter_eval_splits(["dev", "test"]))
    assert not asked(TwoSplits().filter_eval_splits(["test", "dev"]))

    harness = Harness(tmp_path, benchmark="subsets", show_progress=False)
    assert asked(MockMultilingualSTSTask())
    assert not asked(MockMultilingualSTSTask())
    assert asked(MockMultilingualSTSTask().filter_languages(["eng"]))


def test_a_folder_from_when_benchmarks_shared_a_run_is_gone_on_with(tmp_path: Path) -> None:
    """Whatever another benchmark left in it stays behind; a run of another benchmark is not touched."""
    tasks = [MockSTSTask(), MockRetrievalTask(), MockSummarizationTask()]
    model = Sound()
    unnamed = Harness(tmp_path, show_progress=False)
    unnamed.run(RUN, model, tasks)
    old = unnamed.path(model)
    write_run(replace(read_run(old), benchmark="one"), old.parent.parent)
    sts = read_items(old, "MockSTSTask")

    Harness(tmp_path, benchmark="other", show_progress=False).run(RUN, Sound(), tasks[:1])
    assert read_run(old).benchmark == "one"

    members = {"MockSTSTask", "MockRetrievalTask"}
    again = Sound()
    harness = Harness(tmp_path, benchmark="one", members=members, show_progress=False)
    run = harness.run(RUN, again, tasks[:1])
    assert not again.calls
    assert set(run.expected) == {record.task for record in run.tasks} == members
    assert read_items(harness.path(again), "MockSTSTask") == sts
    assert sorted(run.benchmark for _, run in runs(tmp_path)) == ["one", "other"]


def test_no_two_benchmarks_have_one_file() -> None:
    names = ["", "small", "MTEB(eng, v1)", "MTEB(eng, v2)", "MTEB eng v1", "MTEB-eng-v1", "a/../b", "A,B" * 200]
    files = [run_name(name) for name in names]
    assert files[:2] == ["run.json", "run-small.json"]
    assert len(set(files)) == len(names)
    assert all("/" not in file and len(file) < 120 for file in files)
    assert {items_path(Path("grace") / file, "T").parent.name for file in files} >= {"items", "items-small"}
    assert items_path(Path("grace/general.json"), "T") == Path("grace/items/T.json")


def test_a_model_gets_the_same_draw_of_a_task_every_time(bench: Bench) -> None:
    from mteb.mocks.mock_tasks.clustering import LegacyMockClusteringFastTask

    from grace_training.evaluation.evaluate import fresh

    task = LegacyMockClusteringFastTask()
    seen = []
    for _ in range(2):
        recorder = Recorder()
        model = GraceEncoder(recorder, "mean", model_meta("local/tiny", revision="1"))  # type: ignore[arg-type]
        mteb.evaluate(model, fresh(task), cache=None, co2_tracker=False)
        seen.append(copy.copy(recorder.asked))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("grace-tiny", "grace/grace-tiny"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"),
        ("runs/a/final", "a/final"),
        ("/data/my runs/checkpoint 3/", "my-runs/checkpoint-3"),
        ("final", "local/final"),
    ],
)
def test_results_are_filed_under_a_name_that_mteb_takes(asked: str, name: str) -> None:
    assert model_name(asked) == name
