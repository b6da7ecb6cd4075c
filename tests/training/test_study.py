"""A study adds up runs as anyone would by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from grace_training import study
from grace_training.errors import BadData

BEFORE, AFTER = [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]], [[1.0, 2.0, 3.0], [1.0, 1.0, 4.0]]


def run_folder(folder: Path, before: list[float], after: list[float]) -> Path:
    folder.mkdir()
    lines = [{"step": step, **dict.fromkeys(study.MEASURED, v)} for step, v in ((0, before), (50, after))]
    (folder / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    history = [{"step": n, **dict.fromkeys(study.LOGGED, float(n))} for n in range(1, 51)]
    (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    return folder


def test_a_change_is_paired_by_example_and_spread_over_seeds() -> None:
    got = study.change(BEFORE, AFTER)
    assert got.before == 1.0
    assert got.after == 2.0
    assert got.difference == 1.0
    examples = [1.0, 0.5, 1.5]  # means over the two seeds
    deviation = math.sqrt(sum((x - 1.0) ** 2 for x in examples) / 2)
    assert got.interval == pytest.approx(1.96 * deviation / math.sqrt(3))
    assert got.seeds == pytest.approx(0.0)
    assert math.isnan(study.change(BEFORE[:1], AFTER[:1]).seeds)


def test_arms_are_told_apart_by_their_folders(tmp_path: Path, capsys: Any) -> None:
    folders = [
        run_folder(tmp_path / name, BEFORE[i], AFTER[i])
        for i, name in ((0, "improved-0"), (1, "improved-1"), (0, "paper-0"))
    ]
    assert study.main([*map(str, folders), "--curves", str(tmp_path / "curves.svg")]) == 0
    printed = capsys.readouterr().out
    assert "| improved | 2 | 50 | nDCG@10 | 1.000 | 2.000 | +1.000 ± 0.566 | 0.000 |" in printed
    assert "| paper | 1 | 50 | nDCG@10 | 1.000 | 2.000 | +1.000 ± 0.000 |  |" in printed
    assert "| improved | reward paid | 10.50 (10.50 to 10.50) | 40.50 (40.50 to 40.50) |" in printed
    assert (tmp_path / "curves.svg").read_text().count("<polyline") == 8 + 16  # an axis each, a line for each arm


def test_a_baseline_has_held_out_figures_alone(tmp_path: Path, capsys: Any) -> None:
    grace = run_folder(tmp_path / "paper-0", BEFORE[0], AFTER[0])
    baseline = run_folder(tmp_path / "simcse-0", BEFORE[0], AFTER[0])
    (baseline / "history.json").write_text(json.dumps([{"step": 1, "loss": 2.0}]), encoding="utf-8")
    assert study.main([str(grace), str(baseline), "--curves", str(tmp_path / "curves.svg")]) == 0
    printed = capsys.readouterr().out
    assert "| simcse | 1 | 50 | nDCG@10 |" in printed
    assert "| paper | reward paid |" in printed
    assert "| simcse | reward paid |" not in printed
    panels = study.panels([study.load(grace), study.load(baseline)])
    assert {title: [*series] for title, series in panels.items()}["reward paid"] == ["paper"]


def test_a_run_under_way_counts_as_far_as_it_was_measured(tmp_path: Path, capsys: Any) -> None:
    whole = run_folder(tmp_path / "paper-0", BEFORE[0], AFTER[0])
    running = run_folder(tmp_path / "paper-1", BEFORE[0], AFTER[0])
    (running / "history.json").unlink()
    with (whole / "heldout.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": 100, **{name: [9.0, 9.0, 9.0] for name in study.MEASURED}}) + "\n")
    assert study.main([str(whole), str(running)]) == 0
    assert "| paper | 2 | 50 | nDCG@10 | 1.000 | 2.000 |" in capsys.readouterr().out
    (running / "heldout.jsonl").unlink()
    with pytest.raises(BadData, match="no run with held-out figures"):
        study.load(running)
