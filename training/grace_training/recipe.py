"""A recipe: what a run is, from YAML files and `key=value` words, later ones winning. Flat, no composition language."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from grace.representation import Role
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
_HINTS = get_type_hints(GraceConfig)
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def load_recipe(paths: list[Path], assignments: list[str]) -> Recipe:
    """Read recipes in order, a mapping such as `reward` key by key, then the assignments (`reward.contrast=infonce`).

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
        for key, value in loaded.items():
            before = merged.get(key)
            merged[key] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadRecipe(f"{word!r} is no setting: write key=value")
        outer, _, inner = key.partition(".")
        try:
            parsed = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as error:
            raise BadRecipe(f"{word!r} cannot be read: {str(error).splitlines()[0]}; quote a text") from error
        if inner:
            known = merged.get(outer) or {}
            if not isinstance(known, dict):
                raise BadRecipe(f"{word!r} reaches into {outer}, which is {known!r} and no mapping")
            parsed = {**known, inner: parsed}
        merged[outer] = parsed
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
    _check_own(recipe)
    for key, value in recipe.settings.items():
        # YAML reads a bare no as False.
        recipe.settings[key] = "no" if value is False and key.endswith("_strategy") else _hinted(key, value)


def _check_own(recipe: Recipe) -> None:
    if not isinstance(recipe.model, str) or not recipe.model:
        raise BadRecipe(f"model must be a folder or a hub id, not {recipe.model!r}")
    for name in ("data", "eval_data"):
        value = getattr(recipe, name)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(source, str) and source for source in listed):
            raise BadRecipe(f"{name} must be a file, a list of files, or the name of a hub dataset, not {value!r}")
    for name, least in (("limit", 1), ("eval_limit", 1), ("lora_rank", 0)):
        value = _as(name, getattr(recipe, name), {int, NoneType} if name == "limit" else {int})
        if value is not None and value < least:
            raise BadRecipe(f"{name} must be at least {least}, not {value}")
        setattr(recipe, name, value)
    _as("skip_bad", recipe.skip_bad, {bool})
    if not isinstance(recipe.columns, dict) or not all(isinstance(theirs, str) for theirs in recipe.columns.values()):
        raise BadRecipe(f"columns must map our columns to the data's, not be {recipe.columns!r}")
    said = recipe.instruction
    texts = said if isinstance(said, dict) else {role: said for role in get_args(Role) if said is not None}
    if not set(texts) <= set(get_args(Role)) or not all(isinstance(text, str) for text in texts.values()):
        raise BadRecipe(f"instruction must be a text, or one for each of {', '.join(get_args(Role))}, not {said!r}")
    recipe.dropout = _read(recipe.dropout)
    if type(recipe.dropout) not in (int, float) or not 0 <= recipe.dropout < 1:
        raise BadRecipe(f"dropout must be a number from 0 to below 1, not {recipe.dropout!r}")


def _hinted(name: str, value: Any) -> Any:
    """A value of GraceConfig as its field's type has it; fields of other types are looked at by whoever reads them."""
    hint = _HINTS[name]
    kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
    return _as(name, value, kinds) if kinds <= {*_PLAIN, NoneType} else _read(value)


def _as(name: str, value: Any, kinds: set[type]) -> Any:
    """A value in one of the types its field may have.

    Raises:
        BadRecipe: it is of another.
    """
    found = _read(value) if kinds & {int, float} else value
    if float not in kinds and int in kinds and isinstance(found, float) and found.is_integer():
        found = int(found)
    if type(found) in kinds or (float in kinds and type(found) is int):
        return found
    wanted = " or ".join(words for kind, words in _PLAIN.items() if kind in kinds)
    hint = ": quote it" if str in kinds and type(found) in _PLAIN else ""
    raise BadRecipe(f"{name} must be {wanted}, not {value!r}{hint}")


def _read(value: Any) -> Any:
    """Numbers that YAML left as text, wherever they are: 1e-6 is one to it only with a point."""
    if isinstance(value, dict):
        return {key: _read(inner) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
