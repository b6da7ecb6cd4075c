"""The baselines, `contrastive` and `simcse`: trained as their recipe says, and written in the same form."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grace.checkpoint import Checkpoint
from grace.engines.transformers import TransformersEngine
from grace.prompt import Prompter
from grace_training.cli import main
from grace_training.recipe import load_recipe
from grace_training.run import Run
from tests.training.conftest import embed, examples


def test_a_baseline_is_trained_as_its_recipe_says(
    words: list[str], prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever sentence-transformers knows is handed on."""
    from grace_training.baselines import train

    settings = {"adam_beta2": 0.9, "lr_scheduler_kwargs": {"num_cycles": 2}, "optim": "adafactor", "data_seed": 3}
    more = {"output_dir": "x", "use_cpu": True, "lr_scheduler_type": "cosine"}

    class Stop(Exception):
        pass

    def look(trainer: Any, **_: Any) -> None:
        assert {name: getattr(trainer.args, name) for name in settings} == settings
        raise Stop

    monkeypatch.setattr(train.BaselineTrainer, "train", look)
    with pytest.raises(Stop):
        train.Baseline("contrastive", prompter, dropout=0.0).train(examples(4), {**settings, **more}, temperature=0.1)


@pytest.mark.parametrize("method", ["contrastive", "simcse"])
def test_a_baseline_comes_in_the_same_form(words: list[str], tmp_path: Path, method: str, model_folder: Path) -> None:
    assert main([*words, f"method={method}", "per_device_train_batch_size=3", "max_steps=3"]) == 0
    final = tmp_path / "run" / "final"
    checkpoint = Checkpoint.load(final)
    assert checkpoint.config.provenance["method"] == method
    assert json.loads((final / "config.json").read_text(encoding="utf-8")).get("attention_dropout", 0.0) == 0.0
    trained, base = embed(final, "Who built it?", "direct"), embed(model_folder, "Who built it?", "direct")
    assert float(trained.vector() @ base.vector()) < 0.9999
    assert checkpoint.config.provenance["scores"]
    for made in (final, tmp_path / "run" / "checkpoint-1"):
        assert Checkpoint.load(made).config.mode == {"document": "direct", "query": "direct"}
    # Rationales that are trained on top of it are written again.
    run = Run(load_recipe([], [*words, f"model={final}"]), only_plan=True)
    assert run.prompter.checkpoint.config.mode == {"document": "reason", "query": "reason"}


def test_a_baseline_embeds_as_core_does(model_folder: Path, prompter: Prompter) -> None:
    from grace_training.baselines.train import Baseline

    baseline = Baseline("contrastive", prompter, dropout=0.0)
    texts = ["Who built the bridge?", "A guild of masons did, in 1432!"]
    for role in ("query", "document"):
        got = torch.nn.functional.normalize(baseline.encode(texts, role), dim=-1)
        for text, vector in zip(texts, got, strict=True):
            job = prompter.job(text, role=role, mode="direct")  # type: ignore[arg-type]

            async def run(job: Any = job) -> Any:
                engine = TransformersEngine(prompter.checkpoint, prompter)
                await engine.start()
                return await engine.represent(job)

            assert float(vector @ torch.from_numpy(asyncio.run(run()).vector())) >= 1 - 1e-5


@pytest.mark.parametrize("method", ["contrastive", "simcse"])
def test_a_baseline_that_was_stopped_ends_where_it_would_have(words: list[str], tmp_path: Path, method: str) -> None:
    words = [*words, f"method={method}", "per_device_train_batch_size=3", "max_steps=6", "logging_steps=1"]
    run = tmp_path / "run"
    assert main(words) == 0
    weights = (run / "final" / "model.safetensors").read_bytes()
    losses = [e["loss"] for e in json.loads((run / "history.json").read_text(encoding="utf-8")) if "loss" in e]
    middle = Checkpoint.load(run / "checkpoint-5")
    assert json.loads((middle.folder / "config.json").read_text(encoding="utf-8")).get("attention_dropout", 0.0) == 0.0
    assert embed(middle.folder, "Who built it?", "direct").vector().shape == (64,)
    assert main([*words, "--resume", str(run / "checkpoint-5")]) == 0  # within the second epoch
    assert (run / "final" / "model.safetensors").read_bytes() == weights
    history = json.loads((run / "history.json").read_text(encoding="utf-8"))
    assert [e["loss"] for e in history if "loss" in e] == losses
    assert history[0]["step"] == 0
    assert "eval_margin" in history[0]
    (run / "checkpoint-6" / "grace.json").unlink()
    assert main([*words, "--resume", str(run / "checkpoint-6")]) == 2


def test_what_means_nothing_to_a_baseline_is_said(words: list[str], tmp_path: Path, capsys: Any) -> None:
    words = [*words, "method=simcse", "per_device_train_batch_size=3", "max_steps=1", "eval_strategy=steps"]
    assert main([*words, "reward.hard_weight=0.1", "reward.temperature=0.2"]) == 0
    said = "eval_strategy, num_generations, reward.hard_weight have no effect on simcse"
    assert f"note: {said}" in capsys.readouterr().err
    final = tmp_path / "run" / "final"
    card = (final / "README.md").read_text(encoding="utf-8")
    assert "`simcse`: `eval_strategy`, `num_generations`, `reward.hard_weight`." in card
    assert Checkpoint.load(final).config.provenance["unused"][0] == "eval_strategy"
    assert main([*words, "--dry-run"]) == 0
    assert "unused     eval_strategy, num_generations: of no effect on simcse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lora_rank=4", "lora_rank: contrastive trains all weights"),
        ("pooling=last", "pooling: contrastive pools the text by mean"),
        ("num_negatives=2", "num_negatives: contrastive takes the first negative"),
        ("load_best_model_at_end=true", "load_best_model_at_end: not with contrastive"),
    ],
)
def test_what_a_baseline_cannot_do_is_refused(words: list[str], word: str, message: str, capsys: Any) -> None:
    assert main([*words, "method=contrastive", "eval_strategy=steps", "eval_steps=1", word]) == 2
    assert message in capsys.readouterr().err


def test_negatives_are_not_left_out_in_silence(words: list[str], tmp_path: Path, capsys: Any) -> None:
    from grace_training.baselines import contrastive

    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"query": "q", "positive": "p"}\n')
    assert main([*words, "method=contrastive", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "1 of 13 examples have no negative, the first is train.jsonl:13" in error
    assert main([*words, "method=contrastive", "num_negatives=0", "--dry-run"]) == 0
    assert contrastive.dataset(examples(2)).column_names == ["anchor", "positive", "negative"]
    assert contrastive.dataset(examples(2), num_negatives=0).column_names == ["anchor", "positive"]
    assert contrastive.dataset(examples(2, negatives=0)).column_names == ["anchor", "positive"]


def test_simcse_without_dropout_is_refused(words: list[str], capsys: Any) -> None:
    assert main([*words, "method=simcse", "dropout=0.0"]) == 2
    assert "two views of one text are equal" in capsys.readouterr().err


def test_a_dry_run_of_a_baseline_counts_its_batches(words: list[str], capsys: Any) -> None:
    words = [word for word in words if not word.startswith("max_steps")]
    assert main([*words, "method=simcse", "per_device_train_batch_size=5", "num_train_epochs=2", "--dry-run"]) == 0
    assert "steps      6; an epoch is 3" in capsys.readouterr().out
    assert main([*words, "method=simcse", "per_device_train_batch_size=1", "--dry-run"]) == 2
    assert "per_device_train_batch_size must be at least 2" in capsys.readouterr().err
    shared = ["steps_per_generation=4", "num_iterations=2", "max_steps=3", "save_steps=3"]  # of a recipe for grace
    assert main([*words, "method=simcse", *shared, "metric_for_best_model=loss", "--dry-run"]) == 0
