"""Whether a folder's weights are those of the model that its `config.json` describes: names and shapes, no numbers.

vLLM says of some damage that its engine failed, and of most of it nothing: it cuts tensors that are too large, leaves
missing ones as the memory happened to be, and serves nonsense. Transformers makes missing ones up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from grace.checkpoint import Checkpoint
from grace.errors import CheckpointError

Shape = tuple[int, ...]
_NAMED = 5  # tensors in a message
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})  # tensors of other kinds are quantized, whatever the config says
# With one of these beside it a folder is read in a way of its own: an adapter, quantized weights, Mistral's own format.
_READ_OTHERWISE = (
    "adapter_config.json",
    "hf_quant_config.json",
    "params.json",
    "quant_config.json",
    "quantize_config.json",
)
_OLD_NAMES = (".gamma", ".beta", ".weight_g", ".weight_v")  # Transformers renames these in every model


def check(checkpoint: Checkpoint) -> None:
    """Refuse weights that lack a tensor of the model, or have one in another shape. Reads headers alone.

    What cannot be told for certain is passed over: models with code of their own, those that Transformers cannot build
    or has under other names than the file, quantized weights, adapters. A tensor too many is no reason to refuse.

    Raises:
        CheckpointError: naming file and tensors.
    """
    try:
        complaint = _complaint(checkpoint.folder)
    except Exception:  # noqa: BLE001 - whatever Transformers raises on this config, it is for the engine to refuse it
        return
    if complaint:
        raise CheckpointError(complaint)


def lack(names: Iterable[str]) -> str:
    """The words for tensors that are missing."""
    listed = sorted(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return f"the weights lack {', '.join(listed[:_NAMED])}{more}"


def _complaint(folder: Path) -> str | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    files = _files(folder)
    if not files or config.get("auto_map") or _is_quantized(config):
        return None
    found: dict[str, tuple[Path, Shape]] = {}
    for file in files:
        shapes = _shapes(file)
        if shapes is None:
            return None
        found |= {name: (file, shape) for name, shape in shapes.items()}
    model = _empty_model(folder)
    if model is None or config.get("architectures") != [type(model).__name__]:
        return None
    missing, misshapen = [], []
    for names, wanted in _tensors(model):
        here = [name for name in names if name in found]
        if not here:
            missing.append(names[0])
        elif not any(_is_same(found[name][1], wanted) for name in here):
            misshapen.append((here[0], wanted))
    if missing:
        return f"{files[0] if len(files) == 1 else folder}: {lack(missing)}"
    if misshapen:
        name, wanted = misshapen[0]
        file, shape = found[name]
        more = f"; {len(misshapen) - 1} more are of other shapes" if len(misshapen) > 1 else ""
        return (
            f"{file}: the weights are not of config.json's model: {name} is {_text(shape)}, not {_text(wanted)}{more}"
        )
    return None


def _files(folder: Path) -> list[Path]:
    """The files that make up the weights; none if it is not certain which ones these are."""
    index = folder / "model.safetensors.index.json"
    named = {"model.safetensors"}
    if index.exists():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    here = {file.name for file in folder.glob("*.safetensors")}
    if here != named or any((folder / name).exists() for name in _READ_OTHERWISE):
        return []
    return [folder / name for name in sorted(named)]


def _shapes(file: Path) -> dict[str, Shape] | None:
    """Name to shape, if all tensors of a file are plain numbers under names of today."""
    shapes = {}
    with safe_open(file, framework="np") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no dict
            tensor = tensors.get_slice(name)
            if tensor.get_dtype() not in _PLAIN or name.endswith(_OLD_NAMES):
                return None
            shapes[name] = tuple(tensor.get_shape())
    return shapes


def _is_quantized(config: dict[str, Any]) -> bool:
    inner = [value for value in config.values() if isinstance(value, dict)]
    return any(config.get(key) for key in ("quantization_config", "compression_config")) or any(
        map(_is_quantized, inner)
    )


def _empty_model(folder: Path) -> Any:
    """The model without its numbers; None if Transformers gives tensors new names or forms as it loads them."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.conversion_mapping import get_model_conversion_mapping

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return None if get_model_conversion_mapping(model, add_legacy=False) else model


def _tensors(model: Any) -> list[tuple[list[str], Shape]]:
    """What a file must have: the names under which it may have it, and its shape.

    Buffers are left out, since they are computed where a file has none.
    """
    tied: dict[int, tuple[list[str], Shape]] = {}  # one tensor under several names is one object
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names, _ = tied.setdefault(id(tensor), ([], tuple(tensor.shape)))
        names.append(name)
    optional = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    return [
        ([alias for name in names for alias in _aliases(name, model.base_model_prefix)], shape)
        for names, shape in tied.values()
        if not any(pattern.search(name) for pattern in optional for name in names)
    ]


def _aliases(name: str, prefix: str) -> list[str]:
    """The inner model's prefix may be there or not: `model.norm.weight`, `norm.weight`."""
    return [name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"] if prefix else [name]


def _is_same(one: Shape, other: Shape) -> bool:
    return one == other or {*one, *other} <= {1}  # a single number is one in any shape


def _text(shape: Shape) -> str:
    return " x ".join(map(str, shape)) or "a single number"
