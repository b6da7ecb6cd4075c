"""Suites from JSON lines: hand-checked scores, errors that name file and line, draws that repeat."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mteb.abstasks import AbsTask
from mteb.mocks.mock_tasks.reranking import MockAggregatedTask
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from grace_training.data import read, text_key
from grace_training.errors import BadData
from grace_training.evaluation import evaluate
from grace_training.evaluation.evaluate import Harness, fresh
from grace_training.evaluation.leaks import TrainingTexts, named_leaks, sha256_of
from grace_training.evaluation.lexical import BM25
from grace_training.evaluation.listening import texts_of_task
from grace_training.evaluation.mteb_model import model_meta
from grace_training.evaluation.results import CATEGORIES, Leak, Run, read_run
from grace_training.evaluation.suites import SHIPPED, load_suite

RUN = Run("lookup", "peer", "lookup", "", None, None)


class Lookup(AbsEncoder):
    """Vectors from a table, so that every score can be worked out by hand."""

    mteb_model_meta = model_meta("local/lookup", revision="1")

    def __init__(self, table: dict[str, tuple[float, float]]) -> None:
        self._table = table

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **kwargs: Any) -> Any:
        return np.array([self._table[text] for batch in inputs for text in batch["text"]], np.float32)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def suite(folder: Path, *tasks: dict[str, Any]) -> Path:
    (folder / "suite.json").write_text(json.dumps({"name": "mine", "tasks": tasks}))
    return folder


def score(folder: Path, table: dict[str, tuple[float, float]], *, out: Path) -> float:
    tasks, _ = load_suite(None, folder).tasks()
    (record,) = Harness(out, show_progress=False, overwrite=True).run(RUN, Lookup(table), tasks).tasks
    assert record.reason is None
    assert record.score is not None
    return record.score


def angle(degrees: float) -> tuple[float, float]:
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def retrieval(folder: Path) -> Path:
    titles = ("", "T", "")
    write(folder / "corpus.jsonl", [{"id": f"d{n}", "title": t, "text": f"doc {n}"} for n, t in enumerate(titles)])
    write(folder / "queries.jsonl.gz", [{"id": "q", "text": "query"}, {"id": "unjudged", "text": "other"}])
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\nq\td2\t2\n")
    return folder


TABLE = {"query": angle(0), "other": angle(90), "doc 0": angle(10), "T doc 1": angle(20), "doc 2": angle(30)}


def test_a_corpus_queries_and_judgements_are_a_suite_by_themselves(tmp_path: Path) -> None:
    found = score(retrieval(tmp_path / "data"), TABLE, out=tmp_path)
    gained = 1 / math.log2(3) + 2 / math.log2(4)  # d0, then d1, then d2
    assert found == pytest.approx(gained / (2 + 1 / math.log2(3)), abs=1e-4)


def test_reranking_is_the_mean_of_average_precisions(tmp_path: Path) -> None:
    rows = [{"query": "query", "positive": ["doc 2"], "negative": ["doc 0", "T doc 1"]}]
    rows += [{"query": "other", "positive": ["doc 2", "T doc 1"], "negative": ["doc 0"]}]
    write(tmp_path / "test.jsonl", rows)
    suite(tmp_path, {"name": "Order", "type": "Reranking", "test": "test.jsonl"})
    assert score(tmp_path, TABLE, out=tmp_path / "out") == pytest.approx((1 / 3 + 1) / 2, abs=1e-4)
    # mteb leaves out what has no order; counted as 0 and 1 it would move every model towards the middle.
    nothing = [{"query": "query", "positive": [], "negative": ["doc 0"]}]
    nothing += [{"query": "query", "positive": ["doc 0"], "negative": []}]
    write(tmp_path / "test.jsonl", [*nothing[:1], *rows, *nothing])
    assert score(tmp_path, TABLE, out=tmp_path / "out") == pytest.approx((1 / 3 + 1) / 2, abs=1e-4)
    write(tmp_path / "test.jsonl", nothing)
    with pytest.raises(BadData, match=r"test.jsonl: no row has both positive and negative texts"):
        load_suite(None, tmp_path).tasks()


def test_one_text_is_a_list_of_one_and_never_one_of_its_characters(tmp_path: Path) -> None:
    row = {"query": "query", "positive": "T doc 1", "negative": "doc 0"}
    write(tmp_path / "test.jsonl", [row, {**row, "query": "other"}])
    suite(tmp_path, {"name": "Order", "type": "Reranking", "test": "test.jsonl"})
    (task,), _ = load_suite(None, tmp_path).tasks()
    assert texts_of_task(task, at_most=100) == ["query", "other", "T doc 1", "doc 0"]
    assert score(tmp_path, TABLE, out=tmp_path / "out") == pytest.approx((1 / 2 + 1) / 2, abs=1e-4)


def test_clustering_is_the_v_measure_of_each_set(tmp_path: Path) -> None:
    table = {f"{label} {n}": angle(180 * label + n) for label in range(2) for n in range(40)}
    rows = [{"text": text, "label": text[0], "set": str(int(text[2]) % 2)} for text in table]
    write(tmp_path / "test.jsonl", rows)
    suite(tmp_path, {"name": "Heaps", "type": "Clustering", "test": "test.jsonl"})
    assert score(tmp_path, table, out=tmp_path / "out") == pytest.approx(1)


def test_pair_classification_is_the_best_average_precision(tmp_path: Path) -> None:
    rows = [{"s1": "query", "s2": "doc 0", "label": 1}, {"s1": "query", "s2": "T doc 1", "label": 0}]
    rows += [{"s1": "query", "s2": "doc 2", "label": 1}]
    write(tmp_path / "test.jsonl", rows)
    suite(tmp_path, {"name": "Twins", "type": "PairClassification", "test": "test.jsonl"})
    assert score(tmp_path, TABLE, out=tmp_path / "out") == pytest.approx((1 + 2 / 3) / 2, abs=1e-4)


def test_classification_is_the_accuracy_of_a_logistic_regression(tmp_path: Path) -> None:
    table = {f"{label} {n}": angle(120 * label + n) for label in range(2) for n in range(20)}
    rows = [{"text": text, "label": "left" if text[0] == "0" else "right"} for text in table]
    write(tmp_path / "train.jsonl", [row for row in rows if int(row["text"][2:]) < 15])
    wrong = {"text": "0 19", "label": "right"}
    write(tmp_path / "test.jsonl", [*[row for row in rows if int(row["text"][2:]) >= 15][:9], wrong])
    suite(tmp_path, {"name": "Sides", "type": "Classification", "train": "train.jsonl", "test": "test.jsonl"})
    assert score(tmp_path, table, out=tmp_path / "out") == pytest.approx(0.9)


def test_sts_is_the_rank_correlation_of_the_cosine(tmp_path: Path) -> None:
    rows = [{"s1": "query", "s2": t, "score": s} for t, s in (("doc 0", 5), ("T doc 1", 1), ("doc 2", 3), ("other", 0))]
    write(tmp_path / "test.jsonl", rows)
    suite(tmp_path, {"name": "Alike", "type": "STS", "test": "test.jsonl"})
    assert score(tmp_path, TABLE, out=tmp_path / "out") == pytest.approx(0.8)


def test_summarization_is_the_mean_rank_correlation_per_text(tmp_path: Path) -> None:
    rows = [
        {
            "text": "a text",
            "human_summaries": ["query"],
            "machine_summaries": ["doc 0", "T doc 1", "doc 2"],
            "relevance": relevance,
        }
        for relevance in ([5, 3, 1], [1, 3, 5], [5, 3, 1])
    ]
    write(tmp_path / "test.jsonl", rows)
    suite(tmp_path, {"name": "Short", "type": "Summarization", "test": "test.jsonl", "min_score": 1, "max_score": 5})
    assert score(tmp_path, TABLE, out=tmp_path / "out") == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("corpus.jsonl", '{"id": "d0", "text": "x"}\n{"id": "d1"}\n', r"corpus.jsonl:2: no field 'text'"),
        ("corpus.jsonl", '{"id": "d0", "text": "x"}\nnot json\n', r"corpus.jsonl:2: not JSON"),
        ("corpus.jsonl", '["d0"]\n', r"corpus.jsonl:1: a row must be an object"),
        ("qrels.tsv", "q\td9\t1\n", r"document 'd9' is not in the corpus"),
        ("qrels.tsv", "q9\td1\t1\n", r"query 'q9' is not among the queries"),
        ("qrels.tsv", "q\td1\t1\nq d1 1\n", r"qrels.tsv:2: must be"),
        ("qrels.tsv", "q\td1\t0\n", r"no document is relevant"),
        (
            "corpus.jsonl",
            '{"id": 1, "text": "x"}\n{"id": "1", "text": "y"}\n',
            r"corpus.jsonl: two rows have the id '1'",
        ),
        ("queries.jsonl", '{"id": "q", "text": "x"}\n' * 2, r"queries.jsonl: two rows have the id 'q'"),
        ("qrels.tsv", "q\td1\t1\nq\td1\t0\n", r"qrels.tsv:2: query 'q' and document 'd1' had the score 1"),
    ],
)
def test_what_cannot_be_used_is_named_with_file_and_line(tmp_path: Path, name: str, content: str, said: str) -> None:
    folder = retrieval(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(BadData, match=said):
        load_suite(None, folder).tasks()


def test_the_same_said_twice_and_a_mark_of_byte_order_change_nothing(tmp_path: Path) -> None:
    folder = retrieval(tmp_path / "data")
    before = score(folder, TABLE, out=tmp_path)
    (folder / "qrels.tsv").write_text("\ufeffq\td1\t1\n\nq\td2\t2\nq\td1\t1\n", encoding="utf-8")
    assert score(folder, TABLE, out=tmp_path) == before


@pytest.mark.parametrize(
    ("type_", "row", "said"),
    [
        ("Reranking", {"query": ["q"], "positive": "p", "negative": "n"}, r"query must be a text, not \['q'\]"),
        ("Reranking", {"query": "q", "positive": [{"id": 1}], "negative": "n"}, "positive must be a text, not"),
        ("Reranking", {"query": "q", "positive": "p", "negative": "n\ud83d"}, "negative holds half a character"),
        ("PairClassification", {"s1": "a", "s2": "b", "label": "yes"}, "label must be 0 or 1, not 'yes'"),
        ("PairClassification", {"s1": "a", "s2": "b", "label": 2}, "label must be 0 or 1, not 2"),
        ("STS", {"s1": "a", "s2": "b", "score": "high"}, "score must be a number, not 'high'"),
        ("STS", {"s1": "a", "s2": "b", "score": math.nan}, "score must be a number, not nan"),
        (
            "Summarization",
            {"text": "a", "human_summaries": "b", "machine_summaries": ["c"], "relevance": 1},
            "relevance must be a list of numbers, not 1",
        ),
        (
            "Summarization",
            {"text": "a", "human_summaries": "b", "machine_summaries": ["c", "d"], "relevance": [1]},
            "machine_summaries and relevance must be of one length: machine_summaries has 2, relevance has 1",
        ),
    ],
)
def test_a_field_in_another_form_is_named_with_file_and_line(
    tmp_path: Path, type_: str, row: dict[str, Any], said: str
) -> None:
    write(tmp_path / "test.jsonl", [row])
    with pytest.raises(BadData, match=rf"test.jsonl:1: {said}"):
        load_suite(None, suite(tmp_path, {"name": "X", "type": type_, "test": "test.jsonl"})).tasks()


def test_numbers_may_be_written_as_texts(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("s1,s2,label,score\na,b,1,2.5\na,c,0,1\n")
    tasks = [{"name": type_, "type": type_, "test": "test.csv"} for type_ in ("PairClassification", "STS")]
    pairs, alike = (task for task in load_suite(None, suite(tmp_path, *tasks)).tasks()[0])
    assert pairs.splits["test"]["labels"] == [1, 0]  # type: ignore[attr-defined]
    assert alike.splits["test"]["score"] == [2.5, 1.0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"name": "X", "type": "STS", "test": "t.jsonl", "limit": -1}, "limit must be a whole number of at least 1"),
        ({"name": "X", "type": "Guessing", "test": "t.jsonl"}, "type must be one of Retrieval"),
        ({"name": "X", "type": "Classification", "test": "t.jsonl"}, "lacks train"),
        ({"name": "X", "type": "STS", "test": "t.jsonl", "maximum": 5}, "unknown fields: maximum"),
        ({"name": "X", "type": "STS", "test": "t.jsonl"}, "no file"),
        ({"type": "STS"}, "an object with a name"),
    ],
)
def test_a_suite_that_is_none_is_refused(tmp_path: Path, task: dict[str, Any], said: str) -> None:
    with pytest.raises(BadData, match=said):
        load_suite(None, suite(tmp_path, task))


def test_other_columns_or_another_type_is_another_result(tmp_path: Path) -> None:
    """Else a score over the wrong column would stand as done when the suite is corrected."""
    rows = [{"query": "query", "other": "doc 2", "s2": t, "score": s} for t, s in (("doc 0", 1), ("T doc 1", 0))]
    write(tmp_path / "test.jsonl", rows)
    pairs = {"name": "X", "test": "test.jsonl", "columns": {"s1": "other", "label": "score"}}
    asked = [pairs | {"type": "STS"}, pairs | {"type": "PairClassification"}]
    asked += [task | {"columns": {**pairs["columns"], "s1": "query"}} for task in asked]  # type: ignore[dict-item]
    made = [load_suite(None, suite(tmp_path, task)).tasks()[0][0] for task in asked]
    assert len({task.metadata.dataset["revision"] for task in made}) == 4


def test_a_draw_repeats_keeps_what_was_judged_and_says_of_how_many(tmp_path: Path) -> None:
    write(tmp_path / "corpus.jsonl", [{"id": f"d{n}", "text": f"doc {n}"} for n in range(500)])
    write(tmp_path / "queries.jsonl", [{"id": f"q{n}", "text": f"query {n}"} for n in range(50)])
    (tmp_path / "qrels.tsv").write_text("".join(f"q{n}\td{n * 3}\t1\n" for n in range(50)))
    found = [load_suite(None, tmp_path).tasks(limit=5) for _ in range(2)]
    (task,), full = found[0]
    assert full == {tmp_path.name: 50}
    texts = texts_of_task(task, at_most=1000)
    assert texts == texts_of_task(found[1][0][0], at_most=1000)
    queries = [text for text in texts if text.startswith("query")]
    assert len(queries) == 5
    assert {f"doc {int(q.split()[1]) * 3}" for q in queries} <= set(texts)
    assert len(texts) == 5 + 5 + 50


def test_the_shipped_suite_has_every_category_and_is_small() -> None:
    tasks, full = load_suite(SHIPPED / "small", None).tasks()
    assert tuple(str(task.metadata.type) for task in tasks) == CATEGORIES
    assert not full
    assert sum(file.stat().st_size for file in (SHIPPED / "small").iterdir()) < 400_000
    assert (SHIPPED / "small" / "LICENCES.md").exists()


def test_texts_that_were_trained_on_are_counted_by_file(tmp_path: Path) -> None:
    train = [{"query": "Who built the bridge?", "positive": ["A guild built THE  bridge."], "label": "same"}]
    files = [write(tmp_path / "a.jsonl", train), write(tmp_path / "b.jsonl", [{"text": "nothing of this is there"}])]
    pairs = [("a guild built the bridge.", 1), ("Nobody built it.", 2), ("something else entirely", 3)]
    write(tmp_path / "sts.jsonl", [{"s1": "Who  BUILT the bridge?", "s2": text, "score": n} for text, n in pairs])
    suite(tmp_path, {"name": "Alike", "type": "STS", "test": "sts.jsonl"})
    table = {"Who  BUILT the bridge?": angle(0)} | {text: angle(20 * n) for text, n in pairs}
    tasks, _ = load_suite(None, tmp_path).tasks()
    harness = Harness(tmp_path / "out", training=TrainingTexts(files), show_progress=False)
    (record,) = harness.run(RUN, Lookup(table), tasks).tasks
    assert record.texts == 4
    assert record.leaks == (Leak(f"{tmp_path.name}/a.jsonl", 2, 4),)


def leaky(folder: Path) -> tuple[list[AbsTask], list[Path]]:
    """A task, and three training files: the first has one of its texts, the second two, the third none."""
    sentences = ["a guild built the bridge", "the river meets the sea", "nobody crosses it at night"]
    rows = [{"s1": sentences[0], "s2": text, "score": n} for n, text in enumerate(sentences)]
    write(folder / "sts.jsonl", rows)
    suite(folder, {"name": "Alike", "type": "STS", "test": "sts.jsonl"})
    texts = [sentences[:1], sentences[:2], ["nothing of this is there"]]
    files = [write(folder / f"{n}.jsonl", [{"text": text} for text in told]) for n, told in enumerate(texts)]
    return list(load_suite(None, folder).tasks()[0]), files


class Counting(Lookup):
    """The table, with a count of how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **kwargs: Any) -> Any:
        self.calls += 1
        return np.array([angle(len(text)) for batch in inputs for text in batch["text"]], np.float32)


def test_kept_tasks_are_compared_with_training_data_that_they_were_not_compared_with(tmp_path: Path) -> None:
    tasks, files = leaky(tmp_path)
    model = Counting()

    def shared(*files: Path) -> list[int | None]:
        training = TrainingTexts(files) if files else None
        harness = Harness(tmp_path / "out", training=training, show_progress=False)
        (record,) = harness.run(RUN, model, tasks).tasks
        assert read_run(harness.path(model)).tasks == (record,)
        assert record.score == scored.score
        return [leak.texts for leak in record.leaks]

    (scored,) = Harness(tmp_path / "out", show_progress=False).run(RUN, model, tasks).tasks
    before = model.calls
    assert shared(files[0]) == [1]
    assert shared(files[2]) == []
    assert shared(*files) == [1, 2]
    assert shared() == [1, 2]  # nothing to compare with says nothing against what was found
    write(files[0], [{"text": "another text by now"}])
    assert shared(*files) == [2]
    assert model.calls == before


def test_texts_are_compared_once_with_the_same_training_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, files = leaky(tmp_path)
    for given in (files, files[::-1]):
        harness = Harness(tmp_path / "out", training=TrainingTexts(given), show_progress=False)
        (record,) = harness.run(RUN, Counting(), tasks).tasks
        assert len(record.leaks) == 2
        monkeypatch.setattr(evaluate, "run_through", None)


def test_texts_that_cannot_be_had_again_are_said_and_compared_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, files = leaky(tmp_path)
    Harness(tmp_path / "out", show_progress=False).run(RUN, Counting(), tasks)
    harness = Harness(tmp_path / "out", training=TrainingTexts(files), show_progress=False)
    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "run_through", None)
        (record,) = harness.run(RUN, Counting(), tasks).tasks
    assert record.status == "done"
    assert "Alike: not compared with the training data: " in capsys.readouterr().err
    (record,) = harness.run(RUN, Counting(), tasks).tasks
    assert len(record.leaks) == 2


@pytest.mark.parametrize(
    ("category", "model"),
    [*((category, Counting()) for category in CATEGORIES), ("Retrieval", BM25()), ("Reranking", BM25())],
)
def test_a_kept_task_has_the_leaks_that_scoring_it_finds(tmp_path: Path, category: str, model: Any) -> None:
    tasks = [t for t in load_suite(SHIPPED / "small", None).tasks(limit=6)[0] if t.metadata.type == category]
    file = write(tmp_path / "train.jsonl", [{"text": text} for text in texts_of_task(fresh(tasks[0]), at_most=9)])
    compared = {"training": TrainingTexts([file]), "show_progress": False}
    (scored,) = Harness(tmp_path / "one", **compared).run(RUN, model, [fresh(t) for t in tasks]).tasks
    Harness(tmp_path / "two", show_progress=False).run(RUN, model, [fresh(t) for t in tasks])
    (kept,) = Harness(tmp_path / "two", **compared).run(RUN, model, [fresh(t) for t in tasks]).tasks
    assert scored.reason is None
    assert scored.leaks
    assert (kept.leaks, kept.compared_with, kept.score) == (scored.leaks, scored.compared_with, scored.score)


def test_a_kept_task_that_is_the_mean_of_others_has_the_leaks_of_all_of_them(tmp_path: Path) -> None:
    part = MockAggregatedTask().metadata.tasks[0]
    file = write(tmp_path / "train.jsonl", [{"text": text} for text in texts_of_task(fresh(part), at_most=2)])
    compared = {"training": TrainingTexts([file]), "show_progress": False}
    (scored,) = Harness(tmp_path / "one", **compared).run(RUN, Counting(), [MockAggregatedTask()]).tasks
    Harness(tmp_path / "two", show_progress=False).run(RUN, Counting(), [MockAggregatedTask()])
    model = Counting()
    (kept,) = Harness(tmp_path / "two", **compared).run(RUN, model, [MockAggregatedTask()]).tasks
    assert not model.calls
    assert scored.leaks
    assert (kept.leaks, kept.compared_with) == (scored.leaks, scored.compared_with)


def test_training_files_of_one_name_are_all_compared_and_told_apart(tmp_path: Path) -> None:
    said = ["A guild built the bridge.", "The river meets the sea."]
    files = [
        write(tmp_path / folder / "train.jsonl", [{"text": text}])
        for folder, text in zip(("one", "two", "deep/two"), [*said, said[1]], strict=True)
    ]
    keys = np.unique(np.array([text_key(text) for text in said], np.uint64))
    found = TrainingTexts([*files, files[0]]).leaks(keys)
    assert found == tuple(
        Leak(name, 1, 2) for name in ("one/train.jsonl", f"{tmp_path.name}/two/train.jsonl", "deep/two/train.jsonl")
    )


def test_bad_rows_of_a_training_file_are_said_and_the_others_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "A guild built the bridge."
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"text": text}) + '\n{"text": "cut of\n{"text": "again\n')
    keys = np.array([text_key(text)], np.uint64)
    assert TrainingTexts([file]).leaks(keys) == (Leak(f"{tmp_path.name}/train.jsonl", 1, 1),)
    assert "bad rows are not compared: 2, the first: train.jsonl:2: not JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no text in it"), ("{", "train.jsonl:1: not JSON"), ('{"label": "yes"}', "no text in it")],
)
def test_a_training_file_without_a_text_clears_nobody(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(BadData, match=said):
        TrainingTexts([tmp_path / "train.jsonl"])


def test_of_a_card_that_grace_train_wrote_the_name_counts_and_not_the_hash(tmp_path: Path) -> None:
    """What docs/evaluation.md says of it: the hash there is of the rows as they were read."""
    file = write(tmp_path / "made" / "of.jsonl", [{"text": "A guild built the bridge."}])
    sources = {"made/of.jsonl": sha256_of(file)}
    fingerprint = read(str(file), "unsupervised").fingerprint
    assert named_leaks("Anything", sources, {"train: made/of.jsonl": fingerprint}, texts=1)
    assert not named_leaks("Anything", sources, {"train: moved/elsewhere.jsonl": fingerprint}, texts=1)


def test_data_that_the_card_names_is_marked() -> None:
    card = {"train: banking77/train.jsonl.gz": "abc", "text_wikipedia/all.jsonl.xz": "def"}
    assert named_leaks("Banking77Classification", {}, card, texts=9) == (
        Leak("train: banking77/train.jsonl.gz", None, 9),
    )
    assert named_leaks("Anything", {"made/of.jsonl": "def"}, card, texts=9) == (
        Leak("text_wikipedia/all.jsonl.xz", None, 9),
    )
    assert named_leaks("Anything", {"banking77/test.jsonl.gz": "xyz"}, card, texts=9) == ()
    assert named_leaks("SciFact", {}, card, texts=9) == ()
