"""A mixture holds out what it says, and training never meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grace_training import mix
from grace_training.data import read


def source(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(name: str, count: int) -> list[dict[str, Any]]:
    """Every text is met in two examples: two questions about one document, which is the next one's negative."""
    return [
        {"query": f"{name} asks {n}", "positive": f"{name} says {n // 2}", "negative": [f"{name} says {n // 2 + 1}"]}
        for n in range(count)
    ]


def test_what_is_held_out_is_in_no_way_trained_on(tmp_path: Path) -> None:
    sources = [source(tmp_path / name / "all.jsonl", rows(name, 60)) for name in ("cats", "dogs")]
    options = ["--rows", "20", "--held-out-rows", "5", "--folder", str(tmp_path / "mixed"), "--negatives", "0"]
    assert mix.main([*sources, *options]) == 0
    train, held_out = (read(str(tmp_path / "mixed" / f"{n}.jsonl"), "supervised") for n in ("train", "heldout"))
    assert len(train.examples) == 40
    assert len(held_out.examples) == 10
    texts = [text for e in held_out.examples for text in e.texts]
    assert len(texts) == len(set(texts)) == 20  # no two of them share a text, and negatives are cut
    assert not set(texts) & {text for e in train.examples for text in e.texts}
    assert sum(e.positive.startswith("cats") for e in train.examples) == 20
    assert sum(e.positive.startswith("cats") for e in held_out.examples) == 5
    first = json.loads((tmp_path / "mixed" / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["source"].split("/")[1].startswith("all.jsonl:")


def test_a_seed_gives_one_mixture(tmp_path: Path) -> None:
    path = source(tmp_path / "cats" / "all.jsonl", rows("cats", 60))
    for folder, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        options = ["--rows", "20", "--held-out-rows", "5", "--folder", str(tmp_path / folder), "--seed", seed]
        assert mix.main([path, *options]) == 0
    a, b, c = (read(str(tmp_path / folder / "train.jsonl"), "supervised").fingerprint for folder in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("rows_wanted", "held_out", "message"),
    [(20, 25, "to hold out that share no text"), (60, 5, "to train on that share no text")],
)
def test_a_source_that_is_too_small_is_named(
    tmp_path: Path, capsys: Any, rows_wanted: int, held_out: int, message: str
) -> None:
    path = source(tmp_path / "cats" / "all.jsonl", rows("cats", 60))
    options = ["--rows", str(rows_wanted), "--held-out-rows", str(held_out), "--folder", str(tmp_path / "mixed")]
    assert mix.main([path, *options]) == 2
    said = capsys.readouterr().err
    assert "cats/all.jsonl" in said
    assert message in said
    assert not (tmp_path / "mixed").exists()


def test_bad_rows_stop_it_unless_they_are_to_be_skipped(tmp_path: Path, capsys: Any) -> None:
    path = source(tmp_path / "cats" / "all.jsonl", [*rows("cats", 60), {"query": "no answer"}])
    options = ["--rows", "20", "--held-out-rows", "5", "--folder", str(tmp_path / "mixed")]
    assert mix.main([path, *options]) == 2
    assert "all.jsonl:61" in capsys.readouterr().err
    assert mix.main([path, *options, "--skip-bad"]) == 0
    assert "1 bad rows skipped" in capsys.readouterr().err
