"""grace-train from recipe to a checkpoint that loads and is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from grace.checkpoint import Checkpoint
from grace_training import checkpoints, curves, export, heldout
from grace_training.checkpoints import trained_on
from grace_training.cli import main
from grace_training.errors import SaveFailed
from grace_training.evaluation.describe import describe
from grace_training.evaluation.report_entries import entries
from grace_training.export import Provenance
from grace_training.trainer import GraceTrainer
from tests.training.conftest import MakeTrainer, embed


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
    assert set(provenance["scores"]) == {f"eval_{name}" for name in heldout.FIGURES}
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


def test_the_first_figures_are_measured_as_the_later_ones(words: list[str], tmp_path: Path) -> None:
    """In the precision of training: weights that do not move give the same."""
    assert main([*words, "bf16=true", "learning_rate=0", "max_steps=1", "save_strategy=no"]) == 0
    record = (tmp_path / "run" / "heldout.jsonl").read_text(encoding="utf-8")
    first, last = (json.loads(line) for line in record.splitlines())
    assert (first.pop("step"), last.pop("step")) == (0, 1)
    assert first == last


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
