"""Writing a GRACE checkpoint: weights, tokenizer, `grace.json`, model card; whole, or not at all.

Everything is written to a folder beside the target, which takes the target's name at the end: a folder under that name
is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from grace.checkpoint import CheckpointConfig, save_config
from grace_training.errors import SaveFailed


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a checkpoint came from. It goes into grace.json and the card; it changes no fingerprint."""

    method: str  # grace, contrastive, simcse
    base_model: str
    base_fingerprint: str
    steps: int
    settings: dict[str, Any]  # what differs from the defaults
    data: dict[str, str]  # source -> fingerprint
    base_data: dict[str, str] = field(default_factory=dict)  # the same of the base model, where it says so
    scores: dict[str, float] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()  # from the paper
    unused: tuple[str, ...] = ()  # settings that mean nothing to the method
    share: float = 1.0  # of the change from the base that was kept: `interpolate`


@dataclass(frozen=True, slots=True)
class Sample:
    """A text and the rationale the trained model writes about it."""

    text: str
    rationale: str


def export(
    folder: Path,
    config: CheckpointConfig,
    provenance: Provenance,
    *,
    save_weights: Callable[[Path], None],  # writes model and tokenizer; runs on every process
    samples: Sequence[Sample] = (),
    curves: Sequence[Path] = (),
    main: bool = True,
) -> Path:
    """Write a checkpoint to `folder`, replacing one that is there.

    Raises:
        SaveFailed: the disk is full, or the folder cannot be written; what was there before is still there.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        save_weights(partial)
        if main:
            for curve in curves:
                shutil.copy(curve, partial / curve.name)
            card = model_card(config, provenance, samples, [curve.name for curve in curves])
            (partial / "README.md").write_text(card, encoding="utf-8")
            save_config(stamped(config, provenance), partial)
            _settle(partial, folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if main:
            shutil.rmtree(partial, ignore_errors=True)
        raise SaveFailed(f"{folder} could not be written whole, nothing of it was left: {error}") from error
    return folder


def stamped(config: CheckpointConfig, provenance: Provenance | None) -> CheckpointConfig:
    """The config under another provenance; under none it says nothing, rather than what its base was trained on."""
    return replace(config, provenance=_plain(provenance) if provenance else {})


def merge_adapter(base: Path, folder: Path) -> None:
    """Turn the LoRA adapter in `folder` into the whole model it makes of `base`, in float32.

    From the files, not from the model in memory: that one may lie in parts on several processes.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, folder).merge_and_unload()
    for file in folder.glob("adapter_*"):
        file.unlink()
    merged.save_pretrained(folder)


def _settle(partial: Path, folder: Path) -> None:
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _plain(provenance: Provenance) -> dict[str, Any]:
    values = {name: getattr(provenance, name) for name in provenance.__dataclass_fields__}
    return dict(json.loads(json.dumps(values, default=str)))


def model_card(
    config: CheckpointConfig, provenance: Provenance, samples: Sequence[Sample], curves: Sequence[str]
) -> str:
    """The text of the card: what the model is, how it was made, what it writes."""
    reasoned = provenance.method == "grace"
    lines = [
        "---",
        "tags: [grace, feature-extraction, sentence-similarity]",
        f"base_model: {provenance.base_model}",
        "---",
        "",
        f"# {provenance.base_model} trained with `{provenance.method}`",
        "",
        "A GRACE checkpoint: "
        + (
            "the vector of a text is pooled over the text and a rationale the model writes about it."
            if reasoned
            else "a baseline; its vectors are pooled over the text alone (`mode: direct`)."
        ),
        "",
        f"Pooling `{config.pooling}`, at most {config.max_input_tokens} tokens of text and "
        f"{config.max_rationale_tokens} of rationale. {provenance.steps} steps from the base model, "
        f"whose fingerprint is `{provenance.base_fingerprint}`.",
        *([f"Of what they changed, {provenance.share:.0%} is kept."] if provenance.share < 1 else []),
        "",
        *_table("Settings that differ from the defaults", provenance.settings),
        *_table("Data (fingerprints of the rows read)", provenance.data),
        *_table("Data of the base model", provenance.base_data),
        *_table("Held-out scores", {k: f"{v:.4f}" for k, v in provenance.scores.items()}),
    ]
    if provenance.inert:
        lines += ["## Terms without effect", "", "Equal for all rollouts of a group, so the advantage cancels them:"]
        lines += ["", *[f"- {term}" for term in provenance.inert], ""]
    if provenance.unused:
        names = ", ".join(f"`{name}`" for name in provenance.unused)
        lines += ["## Settings without effect", "", f"They mean nothing to `{provenance.method}`: {names}.", ""]
    if provenance.deviations:
        lines += ["## Where this run departs from the paper", "", *[f"- {line}" for line in provenance.deviations], ""]
        lines += ["Reasons, and where the paper's released code differs: `docs/paper.md` of the project.", ""]
    if curves:
        lines += ["## Training", "", *[f"![training curves]({name})" for name in curves if name.endswith(".svg")], ""]
    if samples:
        lines += ["## Sample rationales", ""]
        for sample in samples:
            quoted = "\n".join(f"> {line}" for line in sample.rationale.splitlines() or [""])
            lines += [f"**{sample.text[:300]}**", "", quoted, ""]
    lines += [
        "## Instructions",
        "",
        *[f"- `{role}`: {text}" for role, text in config.instruction.items()],
    ]
    return "\n".join(lines) + "\n"


def _table(title: str, values: dict[str, Any]) -> list[str]:
    if not values:
        return []
    return [f"## {title}", "", "| | |", "|---|---|", *[f"| {k} | {v} |" for k, v in values.items()], ""]
