"""A recipe: what a run is, from YAML files and `key=value` words, later ones winning. Flat, no composition language."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from grace_training.config import GraceConfig
from grace_training.errors import BadRecipe

Method = Literal["grace", "contrastive", "simcse"]


@dataclass
class Recipe:
    """What to train, on what, and how; `settings` are fields of GraceConfig."""

    model: str = "grace-tiny"
    data: str | list[str] = ""
    method: Method = "grace"
    eval_data: str | list[str] | None = None  # supervised examples, never trained on
    eval_limit: int = 64
    limit: int | None = None  # train on the first so many examples
    columns: dict[str, str] = field(default_factory=dict)  # our column -> the data's, in eval_data too
    skip_bad: bool = False
    instruction: str | dict[str, str] | None = None  # None keeps the model's own
    lora_rank: int = 0  # 0 trains all weights
    dropout: float = 0.1  # simcse: of attention and of the embeddings
    push_to_hub: str | None = None  # a hub id, "owner/name"
    settings: dict[str, Any] = field(default_factory=dict)


_OWN = {f.name for f in fields(Recipe)} - {"settings"}
_CONFIG = {f.name for f in fields(GraceConfig)}


def load_recipe(paths: list[Path], assignments: list[str]) -> Recipe:
    """Read recipes in order, then the assignments (`reward.contrast=infonce` reaches into a mapping).

    Raises:
        BadRecipe: a file is no mapping, a word is no assignment, or a key is unknown.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise BadRecipe(f"{path} cannot be read: {error}") from error
        if not isinstance(loaded, dict):
            raise BadRecipe(f"{path} must hold a mapping of settings")
        merged.update(loaded)
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadRecipe(f"{word!r} is no setting: write key=value")
        outer, _, inner = key.partition(".")
        parsed = yaml.safe_load(value) if value else ""
        merged[outer] = {**merged.get(outer, {}), inner: parsed} if inner else parsed
    for key in merged:
        if key not in _OWN | _CONFIG:
            near = difflib.get_close_matches(key, _OWN | _CONFIG, n=1)
            raise BadRecipe(f"unknown setting {key!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    own = {key: value for key, value in merged.items() if key in _OWN and key != "push_to_hub"}
    # One word for one thing: transformers has a switch of this name, ours is where to push to.
    hub = merged.get("push_to_hub") or None
    recipe = Recipe(**own, push_to_hub=hub, settings={k: v for k, v in merged.items() if k not in _OWN})
    _check(recipe)
    return recipe


def _check(recipe: Recipe) -> None:
    if recipe.method not in get_args(Method):
        raise BadRecipe(f"method must be one of {', '.join(get_args(Method))}, not {recipe.method!r}")
    if not recipe.data:
        raise BadRecipe("data is missing: a file, a list of files, or the name of a hub dataset")
    if "output_dir" not in recipe.settings:
        raise BadRecipe("output_dir is missing: where checkpoints go")
    if recipe.push_to_hub is not None and "/" not in str(recipe.push_to_hub):
        raise BadRecipe("push_to_hub must be a hub id such as owner/name")
    for key, value in recipe.settings.items():
        # YAML reads 1e-6 as a text: only a point makes it a number. And it reads a bare no as False.
        recipe.settings[key] = "no" if value is False and key.endswith("_strategy") else _read(value)
    recipe.dropout = _read(recipe.dropout)
    if not isinstance(recipe.dropout, int | float) or not 0 <= recipe.dropout < 1:
        raise BadRecipe(f"dropout must be a number from 0 to below 1, not {recipe.dropout!r}")


def _read(value: Any) -> Any:
    """Numbers that YAML left as text, wherever they are."""
    if isinstance(value, dict):
        return {key: _read(inner) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
