"""Weights promise to be refused for what they lack, and never for what a valid checkpoint may look like."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from grace import weights
from grace.checkpoint import Checkpoint
from grace.engines.transformers import TransformersEngine
from grace.errors import CheckpointError
from grace.prompt import Prompter
from tests.support.models import Family, make_model, make_tokenizer

Tensors = dict[str, torch.Tensor]
FAMILIES: tuple[Family, ...] = ("qwen2", "qwen3", "mistral", "llama")
LOST = "model.layers.1.mlp.down_proj.weight"


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def lose(folder: Path, *names: str) -> None:
    rewrite(folder, lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names})


def describe(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def split(folder: Path) -> None:
    """The same weights in several files."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_is_taken_and_a_lost_tensor_is_named(
    tmp_path: Path, family: Family, tied: bool
) -> None:
    folder = make_model(tmp_path, family, tied=tied)
    weights.check(Checkpoint.load(folder))
    lose(folder, LOST)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: the weights lack {LOST}$"):
        weights.check(Checkpoint.load(folder))


def test_files_that_are_split_are_taken_and_a_tensor_that_none_has_is_named(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    split(folder)
    weights.check(Checkpoint.load(folder))
    for file in folder.glob("*.safetensors"):
        save_file({name: t for name, t in load_file(file).items() if name != LOST}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"the weights lack {LOST}"):
        weights.check(Checkpoint.load(folder))


def test_of_many_lost_tensors_some_are_named(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama")
    describe(folder, num_hidden_layers=4)
    with pytest.raises(CheckpointError, match=r"lack model\.layers\.2\.input_layernorm\.weight, .* and 13 more"):
        weights.check(Checkpoint.load(folder))


def test_a_tensor_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    describe(folder, intermediate_size=64)
    with pytest.raises(CheckpointError, match=r"gate_proj\.weight is 128 x 64, not 64 x 64; 5 more"):
        weights.check(Checkpoint.load(folder))


def without_prefix(folder: Path) -> None:
    rewrite(folder, lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()})


def with_the_tied_head(folder: Path) -> None:
    describe(folder, tie_word_embeddings=True)  # the head is in the file all the same


def with_tensors_nobody_asks_for(folder: Path) -> None:
    more = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.2.mlp.down_proj.weight", "v_head.weight")
    rewrite(folder, lambda tensors: tensors | {name: torch.ones(3) for name in more})


def in_half_precision(folder: Path) -> None:
    rewrite(folder, lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})


def with_a_pickle_beside(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never read")


def all_in_one_and_indexed(folder: Path) -> None:
    named = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": named}))


@pytest.mark.parametrize(
    "like_this",
    [
        without_prefix,
        with_the_tied_head,
        with_tensors_nobody_asks_for,
        in_half_precision,
        with_a_pickle_beside,
        all_in_one_and_indexed,
    ],
)
def test_valid_weights_are_taken(tmp_path: Path, like_this: Callable[[Path], None]) -> None:
    folder = make_model(tmp_path)
    like_this(folder)
    weights.check(Checkpoint.load(folder))


@pytest.mark.parametrize(
    "model",
    [
        (MixtralForCausalLM, MixtralConfig, {"num_local_experts": 4}),
        (Qwen3MoeForCausalLM, Qwen3MoeConfig, {"num_experts": 4, "moe_intermediate_size": 32}),
    ],
    ids=["mixtral", "qwen3_moe"],
)
def test_experts_that_transformers_melts_into_one_tensor_are_taken_one_by_one(tmp_path: Path, model: Any) -> None:
    kind, config, more = model
    tokenizer = make_tokenizer()
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    kind(config(vocab_size=len(tokenizer), num_key_value_heads=2, **shape, **more)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert any(".experts.0." in name for name in load_file(tmp_path / "model.safetensors"))
    weights.check(Checkpoint.load(tmp_path))


def of_its_own_code(folder: Path) -> None:
    describe(folder, auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})


def of_a_kind_unheard_of(folder: Path) -> None:
    describe(folder, model_type="none of theirs", architectures=["NoneOfTheirsForCausalLM"])


def of_another_class(folder: Path) -> None:
    describe(folder, architectures=["Qwen2ForSomethingElse"])


def of_no_class(folder: Path) -> None:
    describe(folder, architectures=None)


def of_a_config_that_builds_nothing(folder: Path) -> None:
    describe(folder, num_attention_heads=0)


def quantized(folder: Path) -> None:
    describe(folder, quantization_config={"quant_method": "awq", "bits": 4})


def quantized_inside(folder: Path) -> None:
    describe(folder, text_config={"quantization_config": {"quant_method": "fp8"}, "hidden_size": 64} | SIZES)


def quantized_and_told_nowhere(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors | {"model.norm.qweight": torch.ones(8, dtype=torch.int32)})


def quantized_by_a_file_beside(folder: Path) -> None:
    (folder / "hf_quant_config.json").write_text("{}")


def an_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


def of_two_formats(folder: Path) -> None:
    save_file({LOST: torch.ones(3)}, folder / "consolidated.safetensors")


def of_old_names(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors | {"model.LayerNorm.gamma": torch.ones(3)})


SIZES = {"max_position_embeddings": 1024, "vocab_size": 700}


@pytest.mark.parametrize(
    "unclear",
    [
        of_its_own_code,
        of_a_kind_unheard_of,
        of_another_class,
        of_no_class,
        of_a_config_that_builds_nothing,
        quantized,
        quantized_inside,
        quantized_and_told_nowhere,
        quantized_by_a_file_beside,
        an_adapter,
        of_two_formats,
        of_old_names,
    ],
)
def test_what_cannot_be_told_for_certain_is_passed_over(tmp_path: Path, unclear: Callable[[Path], None]) -> None:
    """Each of these lacks a tensor by its names, and may be whole by those of its engine."""
    folder = make_model(tmp_path)
    lose(folder, LOST)
    unclear(folder)
    weights.check(Checkpoint.load(folder))


async def test_what_is_passed_over_transformers_does_not_make_up(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    lose(folder, LOST)
    of_no_class(folder)
    checkpoint = Checkpoint.load(folder)
    with pytest.raises(CheckpointError, match=f"the weights lack {LOST}"):
        await TransformersEngine(checkpoint, Prompter(checkpoint)).start()


def test_no_number_is_read_and_none_is_made(tmp_path: Path) -> None:
    """Tens of gigabytes by its header, and a hole on the disk."""
    small = Checkpoint.load(make_model(tmp_path / "small"))
    folder = make_model(tmp_path / "large")
    describe(folder, vocab_size=2**20, hidden_size=3200)
    shapes = {name: list(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    shapes |= {name: [2**20, 3200] for name in ("model.embed_tokens.weight", "lm_head.weight")}
    header, at = {}, 0
    for name, shape in shapes.items():
        begin, at = at, at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, at]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    assert at > 20e9
    with pytest.raises(CheckpointError, match="not 3200 x 3200"):
        weights.check(replace(small, folder=folder))
