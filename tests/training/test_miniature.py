"""The miniature tables: every arm is a recipe that can be run, and what it is measured on it has not met."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grace_training.config import GraceConfig
from grace_training.recipe import load_recipe
from grace_training.tiny import corpus, miniature, miniature_page, pairs, passages


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def opened(path: Path) -> Any:
    opener: Any = lzma.open if path.suffix == ".xz" else gzip.open
    return opener(path, "wt", encoding="utf-8")


@pytest.mark.parametrize("name", miniature.EVERY)
def test_an_arm_is_a_recipe(name: str, tmp_path: Path) -> None:
    arm = miniature.EVERY[name]
    words = [f"{key}={value}" for key, value in arm.settings.items()]
    recipe = load_recipe([miniature.RECIPE], [*words, "data=x.jsonl", f"output_dir={tmp_path}"])
    assert (recipe.method == "simcse" or recipe.settings.get("objective") == "unsupervised") is (
        arm.data == miniature.TEXTS
    )
    if recipe.method == "grace":
        config = GraceConfig(**recipe.settings)
        if name in miniature.ARMS:
            assert (
                config.per_device_train_batch_size // config.num_generations == 8
            )  # as many examples as the baselines
        else:
            assert config.symmetric


def test_arms_differ_in_what_they_are_named_after() -> None:
    def reward(name: str) -> Any:
        settings = dict(miniature.ARMS[name].settings)
        weights = {key.partition(".")[2]: settings.pop(key) for key in list(settings) if key.startswith("reward.")}
        return GraceConfig(output_dir="x", use_cpu=True, **settings, reward=weights).reward_settings()

    grid = {(reward(name).consistency_weight, reward(name).hard_weight) for name in miniature.ARMS if "lambda" in name}
    assert {*grid, (reward("paper").consistency_weight, reward("paper").hard_weight)} == {
        *((0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.2, 0.2)),
    }


def test_an_arm_whose_training_was_the_last_that_was_done_is_judged_at_the_length_of_the_others(tmp_path: Path) -> None:
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    (final / "grace.json").write_text(json.dumps({"max_input_tokens": 128}), encoding="utf-8")
    assert miniature._trained("passages-joint", 0, tmp_path, tmp_path / "run") == final
    assert json.loads((final / "grace.json").read_text(encoding="utf-8"))["max_input_tokens"] == miniature.MAX_INPUT


def test_what_is_measured_on_was_not_met_in_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    for name in miniature.SOURCES:
        lines = [
            {"query": f"{name} asks {n}", "positive": f"{name} says {n}", "negative": f"{name} denies {n}"}
            for n in range(12)
        ]
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        with opened(data / name) as stream:
            stream.writelines(json.dumps(line) + "\n" for line in lines)
    for entry in corpus.SOURCES:
        if (data / entry.path).exists():
            continue
        (data / entry.path).parent.mkdir(parents=True, exist_ok=True)
        with opened(data / entry.path) as stream:
            for n in range(200):
                text = f"{entry.name} has a text of number {n}"
                row = {**dict.fromkeys(entry.fields, text), "summary": text}
                stream.write((json.dumps(row) if entry.fields else text) + "\n")
    monkeypatch.setattr(miniature, "EXAMPLES", 6)
    monkeypatch.setattr(miniature, "HELD_OUT", 2)
    miniature.prepare(tmp_path, data, {"mixed"})

    train, held_out = rows(tmp_path / "mixed/train.jsonl"), rows(tmp_path / "mixed/heldout.jsonl")
    met = {row[side] for row in train for side in ("query", "positive")}
    assert (len(train), len(held_out)) == (6 * len(miniature.SOURCES), 2 * len(miniature.SOURCES))
    assert {row["text"] for row in rows(tmp_path / "mixed/texts.jsonl")} == met
    assert met.isdisjoint(row[side] for row in held_out for side in ("query", "positive"))
    general = [*rows(tmp_path / "general/text.jsonl"), *rows(tmp_path / "general/summaries.jsonl")]
    assert general
    assert all(corpus.is_held_out(row["text"]) for row in general)


@pytest.mark.parametrize("study", miniature.STUDIES)
def test_the_page_says_what_the_archive_says(study: str, tmp_path: Path) -> None:
    text = miniature_page.PAGE.read_text(encoding="utf-8")
    with tarfile.open(miniature_page.ARCHIVES[study]) as packed:
        packed.extractall(tmp_path, filter="data")
    made = miniature_page.parts(tmp_path, study)
    assert miniature_page.ABSENT not in made.values()
    assert miniature_page.page(text, made) == text, "python -m grace_training.tiny.miniature_page"
    assert miniature_page.page(text, {**made, f"{study}:main": "| another |"}) != text


def of_numbers(count: int, *, contradicted: bool) -> pairs.Kind:
    def pair(row: dict[str, Any], rng: np.random.Generator) -> pairs.Pair:
        asked, said, denied = (pairs.Example("document", f"{word} {row['n']}") for word in ("asks", "says", "denies"))
        return pairs.Pair(asked.text, asked, said, denied if contradicted else None)

    return pairs.Kind([{"n": n % (count - 2)} for n in range(count)], pair, 1.0, long=False)


def test_no_text_of_the_passages_is_met_twice_and_each_has_its_share() -> None:
    kinds = {name: of_numbers(50, contradicted=name == "caption") for name in passages.SHARES}
    kinds = {name: replace(kind, draw=named(name, kind.draw)) for name, kind in kinds.items()}
    train, held_out = passages.draw(kinds, examples=60, held_out=20, rng=np.random.default_rng(0))
    texts = [row[side] for row in train + held_out for side in ("query", "positive")]
    assert len(set(texts)) == len(texts)
    for name, share in passages.SHARES.items():
        assert sum(row["source"] == name for row in train + held_out) == round(share * 80)
        assert sum(row["source"] == name for row in held_out) == round(share * 20)
    assert (train, held_out) == passages.draw(kinds, examples=60, held_out=20, rng=np.random.default_rng(0))


def named(name: str, draw: Any) -> Any:
    def drawn(row: dict[str, Any], rng: np.random.Generator) -> pairs.Pair:
        pair = draw(row, rng)
        first, second = (replace(e, text=f"{name} {e.text}") for e in (pair.first, pair.second))
        return replace(pair, first=first, second=second)

    return drawn


def test_every_triple_has_a_negative_and_never_its_own_positive() -> None:
    examples = [
        {"query": f"q{n}", "positive": f"p{n}", "negatives": ["its own"] if n % 3 == 0 else []} for n in range(9)
    ]
    whole = passages.filled(examples, random.Random(0))
    assert [row["negatives"] for row in whole[::3]] == [["its own"]] * 3
    assert all(len(row["negatives"]) == 1 and row["negatives"] != [row["positive"]] for row in whole)
    assert examples[1]["negatives"] == []
    with pytest.raises(ValueError, match="another example"):
        passages.filled(examples[1:2], random.Random(0))


def test_an_archive_of_the_same_files_is_the_same_archive(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "joint-0"
    run.mkdir(parents=True)
    for name in ("heldout.jsonl", "history.json", "model.safetensors"):
        (run / name).write_text("{}", encoding="utf-8")
    for archive in ("a", "b"):
        miniature_page.pack(tmp_path, tmp_path / archive)
        os.utime(run / "history.json", (1, 1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with tarfile.open(tmp_path / "a") as packed:
        assert packed.getnames() == ["runs/joint-0/heldout.jsonl", "runs/joint-0/history.json"]
