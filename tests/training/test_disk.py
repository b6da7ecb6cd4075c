"""A disk that takes no more: the run says so in one line, and nothing half-written is taken for a checkpoint."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grace.checkpoint import Checkpoint
from grace_training import checkpoints
from grace_training.cli import main
from grace_training.run import Run
from grace_training.trainer import GraceTrainer


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses every write that would make a file longer, for whatever library asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# From the first record of the held-out figures to the optimizer's state, whichever is met first.
@pytest.mark.parametrize("size", [100, 2_000, 100_000, 1_000_000])
def test_a_full_disk_is_one_line_and_leaves_nothing_that_loads(
    words: list[str], tmp_path: Path, capsys: Any, size: int, model_folder: Path
) -> None:
    whole = (model_folder / "model.safetensors").stat().st_size
    assert whole > 100_000
    with no_file_above(size):
        assert main([*words, "log_completions=true"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("grace-train: ")
    assert "File too large" in error or "could not be written" in error
    assert not list(tmp_path.rglob("run/*/grace.json"))
    assert not (tmp_path / "run" / "final").exists()


def test_what_was_complete_before_still_is(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "save_steps=2"]) == 0
    before = Checkpoint.load(tmp_path / "run" / "final").fingerprint
    with no_file_above(100_000):
        assert main([*words, "max_steps=3", "--resume"]) == 2
    assert Checkpoint.load(tmp_path / "run" / "final").fingerprint == before
    assert (tmp_path / "run" / "checkpoint-2" / "grace.json").exists()
    assert not (tmp_path / "run" / "checkpoint-3").exists()


@pytest.mark.parametrize("method", ["grace", "contrastive"])
def test_the_last_whole_checkpoint_stays_until_the_next_is_whole(
    words: list[str], tmp_path: Path, monkeypatch: Any, method: str
) -> None:
    """Under `save_total_limit`, which transformers sees to before a checkpoint is marked."""
    run, save = tmp_path / "run", checkpoints.save_config

    def full(config: Any, folder: Path) -> None:
        if folder.name == "checkpoint-2":
            raise OSError(28, "No space left on device")
        save(config, folder)

    words = [*words, f"method={method}", "save_total_limit=1"]
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_config", full)
        assert main(words) == 2
    assert checkpoints.latest(run) == run / "checkpoint-1"
    assert main([*words, "--resume"]) == 0
    assert [folder.name for folder in run.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_checkpoint_is_whole_once_every_process_has_written_its_part(model_folder: Path, tmp_path: Path) -> None:
    folder, seen = tmp_path / "checkpoint-1", []
    folder.mkdir()
    trainer: Any = SimpleNamespace(
        args=SimpleNamespace(should_save=True, save_total_limit=None),
        state=SimpleNamespace(best_model_checkpoint=None),
        accelerator=SimpleNamespace(wait_for_everyone=lambda: seen.append(checkpoints.is_whole(folder))),
    )
    with checkpoints.whole_or_nothing(folder, Checkpoint.load(model_folder).config, trainer):
        pass
    assert seen == [False]
    assert checkpoints.is_whole(folder)


def test_a_checkpoint_that_is_written_over_is_not_whole_meanwhile(
    words: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    folder = tmp_path / "run" / "checkpoint-1"
    folder.mkdir(parents=True)
    (folder / "grace.json").write_text("{}", encoding="utf-8")
    seen = []

    def look(*_: Any, **__: Any) -> None:
        seen.append(checkpoints.is_whole(folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(GraceTrainer, "save_model", look)
    monkeypatch.setattr(Run, "_settle_in", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        main(words)
    assert seen == [False]
    assert not checkpoints.is_whole(folder)


def test_a_folder_that_cannot_be_is_named(words: list[str], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    assert main([*words, f"output_dir={tmp_path / 'file' / 'run'}"]) == 2
    assert f"{tmp_path / 'file' / 'run'} cannot be written" in capsys.readouterr().err
