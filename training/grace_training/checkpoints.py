"""Checkpoints during a run: whole, and known to be whole, or not there at all.

`grace.json` is written last, so a folder that holds it is complete: a run can resume from it, and it can be served
(save under LoRA, where it holds the adapter alone).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from grace.checkpoint import CONFIG_FILE, CheckpointConfig, save_config
from grace_training.errors import SaveFailed

if TYPE_CHECKING:
    from transformers import Trainer

STATE_FILE = "trainer_state.json"  # of transformers


@contextmanager
def whole_or_nothing(folder: Path, config: CheckpointConfig, trainer: Trainer) -> Iterator[None]:
    """Runs what writes `folder`, then marks it as complete; on failure removes it.

    Older checkpoints go only then: transformers removes those over `save_total_limit` before this one is marked, and
    what fails after that would leave none.

    Raises:
        SaveFailed: the disk is full, or the folder cannot be written.
    """
    args = trainer.args
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        if args.should_save:
            (folder / CONFIG_FILE).unlink(missing_ok=True)  # the mark of another that was saved under this name
        yield
        trainer.accelerator.wait_for_everyone()  # each process writes a part: its random state at the least
        if args.should_save:
            # Nothing reads it again, and it holds every setting, `hub_token` among them.
            (folder / "training_args.bin").unlink(missing_ok=True)
            save_config(config, folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save reports a full disk as RuntimeError, safetensors as its own.
        if args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
        raise SaveFailed(f"{folder} could not be written whole and was removed: {error}") from error
    finally:
        args.save_total_limit = limit
    if args.should_save:
        from transformers.trainer_utils import rotate_checkpoints  # slow to import

        rotate_checkpoints(str(folder.parent), limit, trainer.state.best_model_checkpoint, use_mtime=True)


def is_whole(folder: Path) -> bool:
    """Whether everything of it was written."""
    return (folder / CONFIG_FILE).exists()


def latest(output_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    return max(filter(is_whole, after(output_dir, -1)), key=_number, default=None)


def after(output_dir: Path, step: int) -> list[Path]:
    """Checkpoints of later steps, whole or not."""
    found = [p for p in output_dir.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return [p for p in found if _number(p) > step]


def can_resume(folder: Path) -> bool:
    """Whether it is complete and knows how far its run had come; a finished checkpoint does not."""
    return is_whole(folder) and (folder / STATE_FILE).exists()


def has_progress(folder: Path) -> bool:
    """Whether it holds more than weights: random states are saved with the optimizer's, by one name everywhere."""
    return any(folder.glob("rng_state*.pth"))


def step(folder: Path) -> int:
    """How far the run of a complete checkpoint had come."""
    return int(json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["global_step"])


def trained_on(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Sources that a checkpoint's weights, and those it began from, were trained on, with their fingerprints."""
    sources: dict[str, Any] = {**(provenance.get("base_data") or {}), **(provenance.get("data") or {})}
    return {name: str(fingerprint) for name, fingerprint in sources.items() if not name.startswith("held out")}


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))
