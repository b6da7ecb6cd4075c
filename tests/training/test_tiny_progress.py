"""What a stage logs is kept: once, however often it was stopped, and drawn from what is kept."""

import json
from pathlib import Path

import pytest
import torch

from grace_training.tiny import loop, progress


class Stopped(Exception):
    """The machine went away."""


def rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_steps_made_again_are_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setattr(loop.model.Clock, "stop", lambda clock: setattr(clock, "spent_s", clock.spent_s + 60.0) or 60.0)
    parts = {"model": torch.nn.Linear(1, 1)}
    path = tmp_path / "words.pt"

    def step(number: int, _: float) -> dict[str, float]:
        if number == 3:
            raise Stopped
        return {"text": float(number)}

    with pytest.raises(Stopped):
        loop.train(path, parts, 6, step)
    assert [row["step"] for row in rows(tmp_path / "words.jsonl")] == [1, 2, 3]
    state = torch.load(path)
    loop.model.save_state(path, {**state, "step": 2, "spent_s": 120.0})  # what was saved before the stop
    loop.train(path, parts, 6, lambda number, _: {"text": 10.0 + number})
    assert [row["step"] for row in rows(tmp_path / "words.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert rows(tmp_path / "words.jsonl")[2] == {"step": 3, "minutes": 3.0, "text": 12.0}


def test_losses_of_pairs_are_one_line(tmp_path: Path):
    (tmp_path / "finetune.jsonl").write_text('{"step": 20, "minutes": 1, "rationale": 2, "contrast a": 1, "b": 3}\n')
    (tmp_path / "pretrain.jsonl").write_text('{"step": 20, "minutes": 1, "loss": 5, "million tokens": 0.1}\n')
    found = progress.panels(progress.kept(tmp_path))
    assert found == {
        "pretrain": {"loss": [(20.0, 5.0)]},
        "finetune": {"rationale": [(20.0, 2.0)], "contrast": [(20.0, 2.0)]},
    }


def test_the_curves_of_the_docs_are_those_of_the_kept_losses():
    kept = [json.loads(line) for line in progress.LOSSES.read_text(encoding="utf-8").splitlines()]
    assert progress.CURVES.read_text(encoding="utf-8") == progress.curves.svg(progress.panels(kept))
