"""A checkpoint between a model and what was trained from it: part of the change, all of the weights.

    python -m grace_training.interpolate --base Qwen/Qwen2.5-1.5B-Instruct --trained runs/a/final --out runs/a/half

Each weight is base + share (trained - base). What a model is asked for and what it unlearned on the way do not fade
alike: at half the change most of the gain is left, and little of the damage (Wortsman et al. 2022, "Robust fine-tuning
of zero-shot models"). `docs/miniature.md` has what it gave here.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from grace.checkpoint import Checkpoint
from grace.errors import GraceError
from grace_training.errors import BadRecipe
from grace_training.export import Provenance, export

REMADE = ("*.safetensors", "*.safetensors.index.json", "README.md", "grace.json")


def interpolate(base: str | Path, trained: str | Path, share: float, folder: Path) -> Path:
    """Write the checkpoint at `share` of the way from `base` to `trained`, in the precision of `trained`.

    Both are held in memory at once, in float32. The held-out scores of `trained` are left out: they are not of these
    weights.

    Raises:
        BadRecipe: `share` is not between 0 and 1, or `trained` was not trained from `base`.
        grace.errors.CheckpointError: one of them cannot be used.
        SaveFailed: the disk is full, or the folder cannot be written.
    """
    if not 0 < share < 1:
        raise BadRecipe(f"share is {share:g}: it must lie between 0, the base, and 1, what was trained")
    start, end = Checkpoint.load(base), Checkpoint.load(trained)
    provenance = _provenance(end, start, share)
    if folder.resolve() in (start.folder.resolve(), end.folder.resolve()):
        raise BadRecipe(f"{folder} holds one of the two models: write to another folder")

    def save_weights(partial: Path) -> None:
        shutil.copytree(end.folder, partial, ignore=shutil.ignore_patterns(*REMADE), dirs_exist_ok=True)
        between(_weights(start.folder), _weights(end.folder), share).save_pretrained(partial)

    curves = sorted(end.folder.glob("curves.*"))
    return export(folder, end.config, provenance, save_weights=save_weights, curves=curves)


@torch.no_grad()
def between(base: Any, trained: Any, share: float) -> Any:
    """`trained` with each of its parameters moved to base + share (trained - base), in the precision it had on disk."""
    origin = dict(base.named_parameters())
    for name, weight in trained.named_parameters():
        weight.copy_(torch.lerp(origin[name], weight, share))
    return trained.to(trained.config.dtype)


def _weights(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.dtype = AutoConfig.from_pretrained(folder).dtype or torch.float32  # loading made it float32
    return model


def _provenance(trained: Checkpoint, base: Checkpoint, share: float) -> Provenance:
    known = {f.name for f in fields(Provenance)}
    recorded = {name: value for name, value in trained.config.provenance.items() if name in known}
    if recorded.get("base_fingerprint") != base.fingerprint:
        raise BadRecipe(
            f"{trained.folder} was not trained from {base.folder}: it names a base with the fingerprint "
            f"{recorded.get('base_fingerprint')}, this one has {base.fingerprint}"
        )
    return Provenance(**{**recorded, "scores": {}, "share": share * recorded.get("share", 1.0)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it went well, 2 when it could not be done."""
    parser = argparse.ArgumentParser(
        prog="python -m grace_training.interpolate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", required=True, help="the model that was trained, a folder or a hub id")
    parser.add_argument("--trained", required=True, help="the checkpoint that came of it")
    parser.add_argument("--share", type=float, default=0.5, help="of the change to keep, between 0 and 1; default 0.5")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        print(f"checkpoint: {interpolate(options.base, options.trained, options.share, options.out)}")
    except GraceError as error:
        print(f"interpolate: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
