"""What is reported, and to whom: nobody unless asked, then everything a run knows about its reward."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from grace_training.cli import main
from tests.training.conftest import MakeTrainer, examples

PARTS = {f"train/grace/{name}" for name in ("contrastive", "consistency", "hard", "paid", "cut_off", "spread")}
HELD_OUT = {f"eval/{name}" for name in ("accuracy_at_1", "ndcg_at_10", "infonce", "margin")}


def test_tensorboard_files_hold_the_parts_of_the_reward(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(report_to="tensorboard", held_out=examples(4), eval_strategy="steps", eval_steps=1)
    trainer.train()
    files = list((tmp_path / "run").rglob("events.out.tfevents.*"))
    assert len(files) == 1
    events = EventAccumulator(str(files[0])).Reload()
    assert set(events.Tags()["scalars"]) >= PARTS | HELD_OUT | {"train/reward", "train/completions/mean_length"}
    logged = {entry["step"]: entry["grace/paid"] for entry in trainer.state.log_history if "grace/paid" in entry}
    written = {event.step: event.value for event in events.Scalars("train/grace/paid")}
    assert written == pytest.approx(logged)
    assert len(written) == 2


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="the real one is tried by hand, offline")
def test_wandb_gets_what_is_logged(make_trainer: MakeTrainer, monkeypatch: Any) -> None:
    """report_to=wandb reaches transformers' callback for it; a list stands in for the service."""
    from transformers.integrations import integration_utils

    sent: list[dict[str, Any]] = []

    class Listening(integration_utils.TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            sent.append(integration_utils.rewrite_logs(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Listening)
    trainer = make_trainer(report_to="wandb")
    trainer.train()
    assert set(sent[0]) >= PARTS


def test_the_progress_line_tells_reward_length_speed_and_time_left(words: list[str], capsys: Any) -> None:
    assert main([*words, "max_steps=3"]) == 0
    said = capsys.readouterr().err
    last = [line for line in said.split("\r") if "3/3" in line][-1]
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d", last)  # time passed < time left
    for figure in ("reward=", "length=", "tokens_per_s="):
        assert figure in last
    assert re.search(r"step 0: held-out nDCG@10 \d\.\d{4}, InfoNCE -\d", said)


def test_the_record_of_the_held_out_examples_has_one_value_each(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(held_out=examples(4), eval_strategy="steps", eval_steps=1)
    reported = trainer.evaluate()
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "heldout.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    for name in ("ndcg_at_10", "infonce"):
        assert len(lines[0][name]) == 4
        assert sum(lines[0][name]) / 4 == pytest.approx(reported[f"eval_{name}"], abs=1e-5)


def test_nothing_is_reported_unless_asked(make_trainer: MakeTrainer, monkeypatch: Any) -> None:
    import trl.trainer.base_trainer as base

    sent: list[str] = []
    monkeypatch.setattr(base, "send_telemetry", lambda **kwargs: sent.append(kwargs["topic"]))
    monkeypatch.delenv("CI", raising=False)
    trainer = make_trainer()
    assert sent == []
    assert trainer.args.report_to == []
    make_trainer(telemetry=True)
    assert len(sent) == 1
