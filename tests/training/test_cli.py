"""grace-train from recipe to a checkpoint that loads and is served."""

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
from grace_training import checkpoints, curves, export, heldout
from grace_training.checkpoints import trained_on
from grace_training.cli import main
from grace_training.deviations import ALWAYS, deviations
from grace_training.errors import BadRecipe, SaveFailed
from grace_training.evaluation.describe import describe
from grace_training.evaluation.report_entries import entries
from grace_training.export import Provenance
from grace_training.recipe import load_recipe
from grace_training.run import Run
from grace_training.trainer import GraceTrainer
from tests.training.conftest import MakeTrainer, embed, examples

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))
BACKBONE = "qwen2.5-1.5b-supervised.yaml"
NEGATIVES, HARD = "similarity to the negatives", "R_hard"
INERT = {  # what is not both of them, the published reward's
    "ablation-lambda2-0": {NEGATIVES},
    "ablation-lambdas-0": {NEGATIVES},
    "ablation-hard-per-rollout": {NEGATIVES},
    "ablation-reinforce-pp": set(),
    "cpu-learn": set(),
    "cpu-smoke": set(),
    **{path.stem: {HARD} for path in RECIPES if "unsupervised" in path.stem},
}


def test_a_run_writes_a_checkpoint_that_is_served(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main([*words, "preset=improved"]) == 0
    final = tmp_path / "run" / "final"
    assert f"checkpoint: {final}" in capsys.readouterr().out
    checkpoint = Checkpoint.load(final)
    assert checkpoint.config.max_input_tokens == 64
    assert checkpoint.config.max_rationale_tokens == 10
    provenance = checkpoint.config.provenance
    assert provenance["method"] == "grace"
    assert provenance["steps"] == 2
    assert provenance["settings"]["reward"]["contrast"] == "infonce"
    assert 0 <= provenance["scores"]["eval_ndcg_at_10"] <= 1
    assert str(tmp_path) not in (final / "grace.json").read_text(encoding="utf-8").replace(str(checkpoint.folder), "")
    representation = embed(final, "Who built the bridge?", "reason")
    assert representation.vector().shape == (64,)
    card = (final / "README.md").read_text(encoding="utf-8")
    assert "Sample rationales" in card
    assert "- `reward.contrast` is infonce, published margin" in card
    assert "- `num_generations` is 4, published 8" in card
    assert "- 2 examples in an update, published 64" in card
    assert provenance["base_fingerprint"] in card
    assert "curves.svg" in card
    assert (final / "curves.svg").exists()
    assert (final / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert not (final / "training_args.bin").exists()
    assert list((tmp_path / "run" / "completions").glob("*.parquet"))


def test_a_checkpoint_says_what_its_base_was_trained_on_too() -> None:
    base = {"data": {"wiki.jsonl": "1"}}
    middle = {"base_data": trained_on(base), "data": {"train: a.jsonl": "2", "held out: b.jsonl": "3"}}
    assert trained_on(middle) == {"wiki.jsonl": "1", "train: a.jsonl": "2"}
    assert trained_on({}) == {}
    provenance = Provenance("grace", "base", "0f", 1, {}, {"train: c.jsonl": "4"}, trained_on(middle))
    card = export.model_card(Checkpoint.load("grace-tiny").config, provenance, [], [])
    assert "| wiki.jsonl | 1 |" in card


def test_a_stopped_run_goes_on(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    assert main([*words, "max_steps=3", "--resume"]) == 0
    assert Checkpoint.load(tmp_path / "run" / "final").config.provenance["steps"] == 3
    (tmp_path / "run" / "checkpoint-3" / "grace.json").unlink()  # as if it had been cut short
    assert main([*words, "max_steps=3", "--resume", str(tmp_path / "run" / "checkpoint-3")]) == 2


def steps_measured(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "heldout.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_that_goes_on_has_one_history(words: list[str], tmp_path: Path) -> None:
    """From an earlier checkpoint: what was measured after it is measured again, what was before it is there."""
    run = tmp_path / "run"
    assert main([*words, "max_steps=3", "eval_steps=1"]) == 0
    whole = json.loads((run / "history.json").read_text(encoding="utf-8"))
    assert steps_measured(run) == [0, 1, 2, 3]
    with (run / "heldout.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"step": 4, "ndcg')  # as if it had been cut short
    assert main([*words, "max_steps=3", "eval_steps=1", "--resume", str(run / "checkpoint-1")]) == 0
    assert steps_measured(run) == [0, 1, 2, 3]
    again = json.loads((run / "history.json").read_text(encoding="utf-8"))
    measured = [[(e["step"], e["eval_margin"]) for e in h if "eval_margin" in e] for h in (whole, again)]
    assert [step for step, _ in measured[1]] == [0, 1, 2, 3]
    for (_, once), (_, twice) in zip(*measured, strict=True):
        assert twice == pytest.approx(once, abs=1e-5)


def test_a_run_that_goes_on_from_an_earlier_checkpoint_leaves_no_later_one(words: list[str], tmp_path: Path) -> None:
    """If it is cut short, the next --resume goes on with it, and not with what the run had been before."""
    run = tmp_path / "run"
    assert main([*words, "max_steps=3"]) == 0
    (run / "checkpoint-2" / "grace.json").unlink()  # cut short while it was saved: it will be written over

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(GraceTrainer, "_save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            main([*words, "max_steps=3", "learning_rate=1e-2", "--resume", str(run / "checkpoint-1")])
    assert checkpoints.latest(run) == run / "checkpoint-1"
    kept = sorted(p.parent.name for p in run.glob("superseded-*/checkpoint-*/model.safetensors"))
    assert kept == ["checkpoint-3"]


def test_weights_alone_are_nothing_to_resume_from(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main([*words, "save_only_model=true"]) == 0
    assert main([*words, "max_steps=3", "--resume"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"nothing to resume from: {tmp_path / 'run' / 'checkpoint-2'} holds weights alone" in error


def test_a_second_run_is_not_mixed_with_the_first(words: list[str], tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    assert main([*words, "save_strategy=no", "max_steps=1"]) == 0
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main([*words, "max_steps=1"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"output_dir {run} holds a run (final): --resume goes on with it, another output_dir" in error
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before
    assert main([*words, "--resume", str(run / "final")]) == 2
    assert "nothing to resume from" in capsys.readouterr().err


def test_a_run_that_left_no_weights_begins_anew(words: list[str], tmp_path: Path) -> None:
    """As `miniature` does, whose runs keep no checkpoints: what one that was cut short had measured is set aside."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "log").write_text("a line\n", encoding="utf-8")
    (run / "heldout.jsonl").write_text('{"step": 0, "margin": [9.0]}\n{"step": 15, "mar', encoding="utf-8")
    (run / "checkpoint-1").mkdir()
    (run / "checkpoint-1" / "model.safetensors").write_bytes(b"as it was when the process was killed")
    assert main([*words, "save_strategy=no", "max_steps=1"]) == 0
    assert steps_measured(run) == [0, 1]
    assert [p.parent.name for p in run.glob("unfinished-*/checkpoint-1/model.safetensors")] == ["checkpoint-1"]
    assert "9.0" in (run / "heldout.jsonl.old").read_text(encoding="utf-8")
    assert (run / "log").exists()


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


def test_a_lora_run_exports_the_model_it_trained(words: list[str], tmp_path: Path, model_folder: Path) -> None:
    """The checkpoint on the way holds the adapter; the finished one is the base with that adapter merged."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert main([*words, "lora_rank=4", "save_steps=2", "learning_rate=1e-2"]) == 0
    final = tmp_path / "run" / "final"
    assert not list(final.glob("adapter_*"))
    ids = torch.tensor([[5, 6, 7, 8]])
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    before = base(ids).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "checkpoint-2")(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(final, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)
    assert (merged - before).abs().max() > 1e-3
    assert embed(final, "Who built the bridge?", "reason").vector().shape == (64,)


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


@pytest.mark.parametrize("method", ["grace", "contrastive", "simcse"])
def test_a_checkpoint_on_the_way_says_what_it_is(words: list[str], tmp_path: Path, method: str) -> None:
    """An evaluation takes it for what it takes the finished one for, and so does a run that begins from it."""
    assert main([*words, f"method={method}", "per_device_train_batch_size=4", "preset=improved"]) == 0
    early, final = (Checkpoint.load(tmp_path / "run" / name) for name in ("checkpoint-1", "final"))
    card = early.config.provenance
    assert (card["method"], card["base_model"], card["steps"], card["scores"]) == (method, "tiny", 1, {})
    assert card["data"] == final.config.provenance["data"]
    found = [(c.folder, describe(c, mode="reason", representation="mean", budget=None)) for c in (early, final)]
    one, other = (entry.key for entry in entries(found))
    assert (one.step, other.step) == (1, 2)
    assert one._replace(step=2) == other
    assert all(run.data == trained_on(card) for _, run in found)


def test_a_token_is_told_to_nobody(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "hub_token=hf_secret"]) == 0
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert {"grace.json", "README.md", "trainer_state.json"} <= {file.name for file in files}
    assert not [file for file in files if b"hf_secret" in file.read_bytes()]


def test_a_run_says_what_its_base_was_trained_on(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "max_steps=1"]) == 0
    first = Checkpoint.load(tmp_path / "run" / "checkpoint-1")
    more = [*words, "max_steps=1", f"model={first.folder}", f"output_dir={tmp_path / 'more'}"]
    assert main(more) == 0
    for name in ("checkpoint-1", "final"):
        card = Checkpoint.load(tmp_path / "more" / name).config.provenance
        assert card["base_fingerprint"] == first.fingerprint
        assert card["base_data"] == trained_on(first.config.provenance)
        assert list(card["base_data"]) == [f"train: {tmp_path.name}/train.jsonl"]


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


def test_a_setting_that_is_a_list_is_taken_as_one(words: list[str]) -> None:
    assert load_recipe([], [*words, "include_for_metrics=[loss]"]).settings["include_for_metrics"] == ["loss"]


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


def test_a_dry_run_says_what_would_happen(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main([*words, "preset=paper", "--dry-run"]) == 0
    report = capsys.readouterr().out
    assert "steps      2; an epoch is 6" in report
    assert "inert      R_hard" in report
    assert "GiB" in report
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [1, 4, 5, 8])
def test_a_dry_run_counts_the_updates_that_are_made(
    words: list[str], steps: int, capsys: Any, make_trainer: MakeTrainer
) -> None:
    """Whether an update takes several generations, or a generation serves several updates."""
    given = {"steps_per_generation": steps, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 4}
    given["num_iterations"] = 1 + steps % 2
    plain = [word for word in words if not word.startswith(("max_steps", "eval_data"))]
    settings = [f"{name}={value}" for name, value in given.items()]
    assert main([*plain, *settings, "save_strategy=no", "num_train_epochs=1.5", "--dry-run"]) == 0
    trainer = make_trainer(**given, max_steps=-1, num_train_epochs=1.5)
    trainer.train()
    assert f"steps      {trainer.state.global_step}; an epoch is" in capsys.readouterr().out


def test_a_dry_run_of_a_baseline_counts_its_batches(words: list[str], capsys: Any) -> None:
    words = [word for word in words if not word.startswith("max_steps")]
    assert main([*words, "method=simcse", "per_device_train_batch_size=5", "num_train_epochs=2", "--dry-run"]) == 0
    assert "steps      6; an epoch is 3" in capsys.readouterr().out
    assert main([*words, "method=simcse", "per_device_train_batch_size=1", "--dry-run"]) == 2
    assert "per_device_train_batch_size must be at least 2" in capsys.readouterr().err
    shared = ["steps_per_generation=4", "num_iterations=2", "max_steps=3", "save_steps=3"]  # of a recipe for grace
    assert main([*words, "method=simcse", *shared, "--dry-run"]) == 0


def test_the_best_weights_carry_their_own_scores(words: list[str], tmp_path: Path) -> None:
    chosen = ["load_best_model_at_end=true", "metric_for_best_model=infonce", "greater_is_better=false"]
    # The worst of them, since the reward rises: not the last step's.
    assert main([*words, *chosen, "eval_steps=1", "learning_rate=1e-2", "max_steps=3"]) == 0
    provenance = Checkpoint.load(tmp_path / "run" / "final").config.provenance
    history = json.loads((tmp_path / "run" / "history.json").read_text(encoding="utf-8"))
    measured = {entry["step"]: entry["eval_infonce"] for entry in history if "eval_infonce" in entry and entry["step"]}
    worst = min(measured, key=lambda step: measured[step])
    assert provenance["steps"] == worst
    assert provenance["scores"]["eval_infonce"] == measured[worst]
    kept = (tmp_path / "run" / f"checkpoint-{worst}" / "model.safetensors").read_bytes()
    assert (tmp_path / "run" / "final" / "model.safetensors").read_bytes() == kept


def test_a_check_counts_and_fails_on_bad_rows(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert main([*words, "--check"]) == 0
    assert "4 examples that share a text with the held-out data" in capsys.readouterr().out
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"query": "no positive"}\n')
    assert main([*words, "--check"]) == 1
    assert "train.jsonl:13: no column 'positive'" in capsys.readouterr().out
    assert main(words) == 2
    (tmp_path / "held.jsonl").write_text((tmp_path / "held.jsonl").read_text() + "not JSON\n", encoding="utf-8")
    assert main([*words, "--check"]) == 1
    assert "2 bad rows" in capsys.readouterr().out
    assert main([*words, "skip_bad=true"]) == 0
    listed = capsys.readouterr().err
    assert "2 bad rows skipped:\n    train.jsonl:13: no column 'positive'" in listed
    assert "held.jsonl:5: not JSON" in listed


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("num_generation=4", "did you mean 'num_generations'"),
        ("learning_rate", "write key=value"),
        ("method=magic", "method must be one of"),
        ("model=nowhere/at/all", "neither a folder nor a hub id"),
        ("num_generations=1", "at least 2"),
        ("push_to_hub=name", "owner/name"),
        ("dropout=much", "dropout must be a number"),
        ("reward=0.1", "reward must be a mapping"),
        ("reward.temperature=cold", "reward.temperature must be a number, not 'cold'"),
        ("reward.temperature=.nan", "reward.temperature must be finite, not nan"),
        ("joint_weight=.inf", "joint_weight must be finite and not negative"),
        ("reward.length_cost=true", "reward.length_cost must be a number, not True"),
        ("reward.contrast=1", "reward.contrast must be a text, not 1"),
        ("reward.skip_duplicates=1", "reward.skip_duplicates must be true or false, not 1"),
        ("reward.dimensions=32", "reward.dimensions must be a list of whole numbers above 0, not 32"),
        ("reward.dimensions=[8, 4096]", "reward.dimensions: 4096 is more than the"),
        ("reward.overlong_buffer=-5", "reward.overlong_buffer must not be negative"),
        ("seed.sub=1", "'seed.sub=1' reaches into seed, which is 7 and no mapping"),
        ("instruction={query", "'instruction={query' cannot be read"),
        ("instruction={reader: x}", "instruction must be a text, or one for each of document, query"),
        ("limit=few", "limit must be a whole number, not 'few'"),
        ("limit=0", "limit must be at least 1, not 0"),
        ("eval_limit=1.5", "eval_limit must be a whole number, not 1.5"),
        ("lora_rank=-1", "lora_rank must be at least 0, not -1"),
        ("skip_bad=maybe", "skip_bad must be true or false, not 'maybe'"),
        ("columns=[a]", "columns must map our columns to the data's"),
        ("data=5", "data must be a file, a list of files, or the name of a hub dataset, not 5"),
        ("output_dir=2026", "output_dir must be a text, not 2026: quote it"),
        ("max_steps=", "max_steps must be a whole number, not ''"),
        ("max_steps=null", "max_steps must be a whole number, not None"),
        ("num_negatives=1.5", "num_negatives must be a whole number, not 1.5"),
        ("symmetric=maybe", "symmetric must be true or false, not 'maybe'"),
        ("learning_rate=-1", "learning_rate must be finite and not negative"),
        ("gradient_accumulation_steps=0", "gradient_accumulation_steps must be at least 1, not 0"),
        ("max_input_tokens=0", "max_input_tokens must be at least 1, not 0"),
        ("temperature=0", "temperature must be above 0"),
        ("loss_type=dapper", "loss_type must be one of grpo, bnpo, dr_grpo, dapo, "),
        ("dynamic_sampling_tries=-1", "dynamic_sampling_tries must not be negative"),
        ("pool_in=nowhere", "pool_in must be one of generation, logprob, forward"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_of_error(words: list[str], word: str, message: str, capsys: Any) -> None:
    assert main([*words, "seed=7", word, "--dry-run"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("grace-train: ")
    assert message in error


def test_a_number_without_a_point_is_a_number_wherever_it_stands(words: list[str]) -> None:
    """YAML reads 1e-1 as a text."""
    given = ["dropout=1e-1", "reward.temperature=1e-1", "reward.length_cost=1e-3", "learning_rate=1e-6"]
    run = Run(load_recipe([], [*words, *given]), only_plan=True)
    assert run.recipe.dropout == 0.1
    assert run.args.learning_rate == 1e-6
    assert (run.args.reward_settings().temperature, run.args.reward_settings().length_cost) == (0.1, 0.001)


def test_later_recipes_and_words_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "data: a\noutput_dir: o\nlearning_rate: 1e-6\nreward: {temperature: 0.2}\n", encoding="utf-8"
    )
    recipe = load_recipe([tmp_path / "a.yaml"], ["data=b.txt", "reward.contrast=infonce", "save_strategy=no"])
    assert recipe.data == "b.txt"
    assert recipe.settings["learning_rate"] == 1e-6
    assert recipe.settings["save_strategy"] == "no"  # YAML says False
    assert recipe.settings["reward"] == {"temperature": 0.2, "contrast": "infonce"}
    with pytest.raises(BadRecipe, match="data is missing"):
        load_recipe([], ["output_dir=o"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_can_be_looked_through_without_its_gpu(
    path: Path, words: list[str], capsys: Any, model_folder: Path, tmp_path: Path
) -> None:
    """Data and model stand in, an ablation comes after a backbone: looked at are the settings."""
    backbone = [] if not path.stem.startswith("ablation") else ["--config", str(path.with_name(BACKBONE))]
    files = [word for word in words if word.startswith(("data=", "eval_data=", "output_dir="))]
    assert main([*backbone, "--config", str(path), f"model={model_folder}", *files, "--dry-run"]) == 0
    report = capsys.readouterr().out.splitlines()
    assert any(line.startswith("memory     about") for line in report)
    inert = {line.split("inert")[1].split(":")[0].strip() for line in report if line.startswith("inert")}
    assert inert == INERT.get(path.stem, {NEGATIVES, HARD})
    if path.stem.startswith(("qwen", "llama")):
        config = Run(load_recipe([path], [f"model={model_folder}", *files]), only_plan=True).args
        assert config.bf16
        assert config.use_vllm
        assert deviations(config) == list(ALWAYS)  # the published settings, whole
        four = next(line for line in path.read_text(encoding="utf-8").splitlines() if "steps_per_generation=" in line)
        released = four.strip("# ").split(")")[0].split()
        config = Run(load_recipe([path], [f"model={model_folder}", *files, *released]), only_plan=True).args
        assert config.steps_per_generation == 4 * config.gradient_accumulation_steps
        assert config.generation_batch_size == 64 * 8


def test_a_finished_checkpoint_is_pushed_where_it_was_told(words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    import huggingface_hub

    done: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, name: str, **_: Any) -> None:
            done.append(("create", name))

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> None:
            done.append((repo_id, Checkpoint.load(folder_path).config.provenance["method"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert main([*words, "push_to_hub=someone/model", "max_steps=1"]) == 0
    assert done == [("create", "someone/model"), ("someone/model", "grace")]


def test_a_failed_export_leaves_what_was_there(tmp_path: Path, model_folder: Path) -> None:
    config = Checkpoint.load(model_folder).config
    provenance = Provenance("grace", "base", "f" * 32, 1, {}, {})

    def good(folder: Path) -> None:
        for file in model_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    def full(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    export.export(tmp_path / "final", config, provenance, save_weights=good)
    before = Checkpoint.load(tmp_path / "final").fingerprint
    with pytest.raises(SaveFailed, match="No space left"):
        export.export(tmp_path / "final", config, provenance, save_weights=full)
    assert Checkpoint.load(tmp_path / "final").fingerprint == before
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_retrieval_figures_are_those_of_their_definitions() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.1], [0.5, 0.5, 0.2]])
    relevant = torch.tensor([[False, True, True], [True, False, False]])
    got = heldout.means(heldout.retrieval(similarity, relevant))
    second, third = 1 / torch.log2(torch.tensor(3.0)), 1 / torch.log2(torch.tensor(4.0))
    first_row, second_row = (second + third) / (1 + second), second  # a tie counts against
    assert got["ndcg_at_10"] == pytest.approx(float(first_row + second_row) / 2, abs=1e-6)
    assert got["accuracy_at_1"] == 0
    assert got["mrr_at_10"] == 0.5


def test_curves_are_drawn_from_what_was_logged(tmp_path: Path) -> None:
    history = [
        {"step": n, "grace/paid": n / 2, "completions/mean_length": 5.0, "eval_ndcg_at_10": 0.1 * n} for n in range(4)
    ]
    found = curves.panels(history)
    assert list(found) == ["reward", "tokens per rationale", "held-out retrieval"]
    page = curves.svg(found)
    assert page.count("<polyline") == 3 + 3  # an axis and a line each
    names = [path.name for path in curves.write(history, tmp_path)]
    assert names[0] == "curves.svg"
    assert curves.write([], tmp_path) == []
