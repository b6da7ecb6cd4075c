"""The stages of `make tiny`: one after another or all at once, and a stage that is waited for."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from grace_training.tiny import model, stages

A_LONG_TIME_S = 60


@pytest.fixture(autouse=True)
def plain_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage is a line of Python here."""
    monkeypatch.setattr(stages, "command", lambda stage, *_: [sys.executable, "-c", stage])


def appending(path: Path, word: str, *, after_s: float = 0.0) -> str:
    return f"import time; time.sleep({after_s}); open({str(path)!r}, 'a').write({word!r})"


def test_in_turn_each_begins_when_the_one_before_it_is_over(tmp_path: Path) -> None:
    path = tmp_path / "written"
    assert stages.in_turn([appending(path, "one ", after_s=0.5), appending(path, "two")]) == 0
    assert path.read_text() == "one two"


def test_in_turn_nothing_follows_a_stage_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "written"
    assert stages.in_turn(["raise SystemExit(3)", appending(path, "two")]) == 3
    assert not path.exists()


def test_at_once_all_are_run(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    assert stages.at_once([appending(path, "done") for path in paths]) == 0
    assert [path.read_text() for path in paths] == ["done"] * 3


def test_at_once_the_others_end_with_the_one_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "written"
    start = time.monotonic()
    assert stages.at_once([appending(path, "never", after_s=A_LONG_TIME_S), "raise SystemExit(4)"]) == 4
    assert time.monotonic() - start < A_LONG_TIME_S
    assert not path.exists()


def test_a_stage_begins_with_what_the_one_before_it_left_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "WAIT_S", 0.01)

    def train() -> None:
        for weight, over in ((1.0, False), (2.0, True)):
            time.sleep(0.1)
            state = {"model": {"w": torch.tensor(weight)}, "step": 1, "spent_s": 1.0, "over": over}
            model.save_state(tmp_path / "contrast.pt", state)

    training = threading.Thread(target=train)
    training.start()
    found = model.start(tmp_path, "contrast", "widen", wait=True)
    training.join()
    assert found["model"]["w"] == 2.0


def test_without_waiting_a_stage_that_has_not_begun_is_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"run grace_training\.tiny\.widen first"):
        model.start(tmp_path, "contrast", "widen")
