"""A model folder that is damaged or not what it says: refused at the start, with file and reason, and code 3."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from grace_server import cli
from grace_server.app import create_app
from grace_server.settings import Settings
from tests.support.models import CHATML, make_tokenizer


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def cut_to_nothing(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def flipped_length(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[6] ^= 0x40  # of the eight bytes that say how long the header is
    weights.write_bytes(data)


def flipped_header(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b'{"', b'z"', 1))


def renamed_tensor(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"model.norm.weight", b"model.nrom.weight", 1))


def lost_tensor(folder: Path) -> None:
    """vLLM would start without it, and serve what its memory happens to hold."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_shapes(folder: Path) -> None:
    """vLLM would cut the tensors to them, and serve nonsense."""
    edit(folder, "config.json", intermediate_size=64)


def lost_shard(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def too_large_vocabulary(folder: Path) -> None:
    tokenizer = make_tokenizer(CHATML)
    tokenizer.add_tokens([f"word{i}" for i in range(500)])
    tokenizer.save_pretrained(folder)


def too_small_vocabulary(folder: Path) -> None:
    make_tokenizer(CHATML, vocab_size=300).save_pretrained(folder)


def no_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def broken_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text()[:-500])


def nonsense_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "None of ours"}}')


def no_config_numbers(folder: Path) -> None:
    edit(folder, "config.json", max_position_embeddings=None)


def endless_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 200_000)


def missing_key(folder: Path) -> None:
    edit(folder, "grace.json", without="pooling")


def newer_version(folder: Path) -> None:
    edit(folder, "grace.json", format=2, what_we_cannot_know=True)


def instruction_of_no_text(folder: Path) -> None:
    edit(folder, "grace.json", instruction={"document": "\ud800", "query": "x"})


def edit(folder: Path, name: str, *, without: str = "", **changes: Any) -> None:
    data = json.loads((folder / name).read_text()) | changes
    data.pop(without, None)
    (folder / name).write_text(json.dumps(data))


BROKEN: list[tuple[Callable[[Path], None], str]] = [
    (cut_short, "model.safetensors is damaged or cut short"),
    (cut_to_nothing, "model.safetensors is damaged or cut short"),
    (flipped_length, "model.safetensors is damaged or cut short"),
    (flipped_header, "model.safetensors is damaged or cut short"),
    (renamed_tensor, "model.safetensors: the weights lack model.norm.weight"),
    (lost_tensor, "model.safetensors: the weights lack model.layers.1.mlp.down_proj.weight"),
    (
        other_shapes,
        "model.safetensors: the weights are not of config.json's model: model.layers.0.mlp.",
    ),
    (lost_shard, "weights are missing: model-00002-of-00002.safetensors"),
    (too_large_vocabulary, "the tokenizer is another model's: it has ids up to"),
    (too_small_vocabulary, "the tokenizer is another model's: it has no token of the ids at which the model ends"),
    (no_chat_template, "no chat template"),
    (broken_tokenizer, "the tokenizer does not load"),
    (nonsense_tokenizer, "the tokenizer does not load"),
    (no_config_numbers, "lacks 'max_position_embeddings'"),
    (endless_config, "config.json is not JSON"),
    (missing_key, "grace.json lacks: pooling"),
    (newer_version, "grace.json has format 2, this version reads up to 1: upgrade"),
    (instruction_of_no_text, "each 'instruction' must be a text"),
]


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
@pytest.mark.parametrize(("breaks", "reason"), BROKEN, ids=[breaks.__name__ for breaks, _ in BROKEN])
async def test_a_broken_model_ends_the_start_with_code_3_and_the_reason(
    model_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    engine: str,
    breaks: Callable[[Path], None],
    reason: str,
) -> None:
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    breaks(folder)
    settings = Settings(model=str(folder), data_dir=tmp_path / "data", port=0, engine=engine)
    with caplog.at_level(logging.ERROR):
        assert await cli.serve(create_app(settings), settings, cli.listen(settings)) == 3
    [told] = [record for record in caplog.records if record.name == "grace.server"]
    assert told.message == "the model cannot be served"
    assert reason in told.__dict__["error"]
    assert not told.exc_info, "a reason, and no traceback"
