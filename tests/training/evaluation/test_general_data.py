"""Local files of the general-ability tasks: every mistake is named with file, line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from grace_training.errors import BadData
from grace_training.evaluation import general_data
from grace_training.evaluation.general_tasks import MINIATURE, PAPER, TASKS, default_tasks, local_rows, specification

ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "#### 4"},
    "mmlu": {"subject": "anatomy", "question": "Which?", "choices": ["a", "b", "c", "d"], "answer": "2"},
    "triviaqa": {"question": "Who?", "answer": ["James I", "James the First"]},
    "nq_open": {"question": "Who?", "answer": ["James I"]},
    "fever": {"claim": "Snow is white.", "label": "SUPPORTS"},
    "bbh": {"task": "navigate", "input": "Turn left.", "target": "No"},
    "humaneval": {"prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    pass", "test": ""},
    "text": {"text": "The river rises in the hills."},
    "summaries": {"text": "A long text.", "summary": "Short."},
}


def write(folder: Path, name: str, *rows: Any) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, row in ROWS.items():
        write(tmp_path, name, row)
    return tmp_path


@pytest.mark.parametrize("name", TASKS)
def test_every_task_reads_its_file(folder: Path, name: str) -> None:
    rows, of = local_rows(TASKS[name], folder, None)
    assert of == len(rows) == 1


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_field_is_named_with_file_and_line(tmp_path: Path, name: str) -> None:
    stem = TASKS[name].stems[0]
    write(tmp_path, stem, {"other": 1})
    with pytest.raises(BadData, match=rf"{stem}.jsonl:1: no field '\w+'; the row has other"):
        local_rows(TASKS[name], tmp_path, None)


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("mmlu", {**ROWS["mmlu"], "answer": "7"}, "0..3 or A..D, not '7'"),
        ("mmlu", {**ROWS["mmlu"], "choices": ["a"]}, "'choices' must be four"),
        ("fever", {"claim": "x", "label": "MAYBE"}, "not 'MAYBE'"),
        ("gsm8k", {"question": 5, "answer": "x"}, "'question' must be a str, not int"),
        ("nq_open", {"question": "Who?", "answer": "James"}, "'answer' must be a list, not str"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, name: str, row: dict[str, Any], said: str) -> None:
    write(tmp_path, name, row)
    with pytest.raises(BadData, match="jsonl:1: ") as error:
        local_rows(TASKS[name], tmp_path, None)
    assert said in str(error.value)


def test_a_letter_and_a_digit_are_the_same_answer(tmp_path: Path) -> None:
    write(tmp_path, "mmlu", ROWS["mmlu"], {**ROWS["mmlu"], "answer": "C"})
    rows, _ = local_rows(TASKS["mmlu"], tmp_path, None)
    assert [row["answer"] for row in rows] == [2, 2]


def test_claims_without_enough_information_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "fever", ROWS["fever"], {"claim": "x", "label": "NOT ENOUGH INFO"})
    assert local_rows(TASKS["fever"], tmp_path, None) == ([ROWS["fever"]], 1)


def test_two_files_of_one_task_are_not_chosen_between(tmp_path: Path) -> None:
    write(tmp_path, "fever_a", ROWS["fever"])
    write(tmp_path, "fever_b", ROWS["fever"])
    with pytest.raises(BadData, match=r"fever_a.jsonl, fever_b.jsonl all belong to this task"):
        general_data.find(tmp_path, ("fever",))


def test_packed_files_and_plain_text_are_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "fever.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps(ROWS["fever"]))
    (tmp_path / "text.txt").write_text("One.\n\nTwo.\n", encoding="utf-8")
    assert local_rows(TASKS["fever"], tmp_path, None)[1] == 1
    assert local_rows(TASKS["perplexity"], tmp_path, None)[0] == [{"text": "One."}, {"text": "Two."}]


def test_fewer_rows_are_taken_from_the_whole_length_and_always_the_same() -> None:
    rows = [{"n": n} for n in range(100)]
    assert [row["n"] for row in general_data.evenly(rows, 4)] == [0, 25, 50, 75]
    assert general_data.evenly(rows, None) is rows
    assert general_data.evenly(rows, 1000) is rows


def test_without_files_the_papers_six_are_asked_for() -> None:
    assert tuple(default_tasks(None)) == PAPER


def test_nq_open_stands_in_for_triviaqa_only_where_that_has_no_file(folder: Path) -> None:
    assert set(default_tasks(folder)) == {*PAPER, *MINIATURE}
    (folder / "triviaqa.jsonl").unlink()
    assert set(default_tasks(folder)) == {*PAPER, "nq_open", *MINIATURE} - {"triviaqa"}


def test_a_task_of_the_paper_without_a_file_is_asked_for_all_the_same(folder: Path) -> None:
    (folder / "bbh.jsonl").unlink()
    assert "bbh" in default_tasks(folder)


def test_rows_go_to_lm_evals_task_of_their_part() -> None:
    rows = [{**ROWS["bbh"], "task": name} for name in ("navigate", "snarks", "navigate")]
    (group,) = specification(TASKS["bbh"], rows, chat=False)
    assert [task["task"] for task in group["task"]] == ["bbh_cot_fewshot_navigate", "bbh_cot_fewshot_snarks"]


def test_a_chat_model_is_asked_for_code_in_another_form() -> None:
    assert specification(TASKS["humaneval"], None, chat=True) == ["grace_humaneval_chat"]
    assert specification(TASKS["humaneval"], None, chat=False) == ["grace_humaneval"]
