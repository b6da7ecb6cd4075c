"""The study of pretraining's choices: its schedules, its counts, and a run of two steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from grace_training.tiny import choices, corpus, crew, export
from grace_training.tiny.pretrain import LENGTH, ROWS

TOKENIZER = Path(__file__).parents[2] / export.FOLDER / "tokenizer.json"


def test_rates_warm_up_and_end_as_they_are_called() -> None:
    for schedule in (choices.cosine, choices.trapezoid, choices.constant):
        assert schedule(0.0) == 0.02
        assert schedule(choices.WARM_UP) == pytest.approx(1.0)
    assert choices.cosine((1 + choices.WARM_UP) / 2) == pytest.approx(0.5)
    ends = [schedule(1.0) for schedule in (choices.cosine, choices.trapezoid, choices.constant)]
    assert ends == pytest.approx([0.0, 0.0, 1.0])


def test_documents_that_come_again_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(corpus, "documents", lambda _: iter(["one", "other", "one"]))
    found = choices.repeated(tmp_path)
    assert found == {"documents": 3, "repeated": 1, "share_of_characters": 3 / 11}


def test_a_run_learns_and_judges_the_mean_of_its_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "LAST", 0.5)
    marks = Tokenizer.from_file(str(TOKENIZER))
    rows = np.tile(np.arange(LENGTH + 1, dtype=np.uint16), (2 * ROWS, 1))  # each token tells the next
    workers = crew.Crew(2)
    with torch.compiler.set_stance("force_eager"):
        two, one = [
            choices.run(choices.Choice(schedule=lambda _: 1.0), marks, some, rows[:3], workers)
            for some in (rows, rows[:ROWS])
        ]
    unread = math.log(marks.get_vocab_size())
    assert two["loss"] < one["loss"] < unread
    assert one["loss_of_mean"] == pytest.approx(one["loss"])  # kept after its only step
    assert two["loss_of_mean"] != two["loss"]
