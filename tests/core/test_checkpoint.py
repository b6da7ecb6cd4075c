"""A checkpoint promises to be read rightly or refused with the reason; its fingerprint follows what it computes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grace.checkpoint import Checkpoint, CheckpointConfig, save_config
from grace.errors import CheckpointError
from tests.conftest import ModelFolder
from tests.support.models import CONFIG


@pytest.fixture
def folder(model_folder: ModelFolder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder("qwen2"), tmp_path / "model"))


def test_a_config_survives_writing_and_reading(folder: Path) -> None:
    config = replace(CONFIG, provenance={"steps": 3})
    save_config(config, folder)
    assert Checkpoint.load(folder).config == config


def test_a_folder_without_grace_json_is_a_base_model_under_the_default_instruction(folder: Path) -> None:
    (folder / "grace.json").unlink()
    assert Checkpoint.load(folder).config == CheckpointConfig()


def test_the_fingerprint_follows_what_is_computed_and_nothing_else(folder: Path) -> None:
    first = Checkpoint.load(folder).fingerprint
    save_config(replace(CONFIG, provenance={"note": "told later"}), folder)
    assert Checkpoint.load(folder).fingerprint == first
    save_config(replace(CONFIG, mode={"document": "direct", "query": "reason"}), folder)
    assert Checkpoint.load(folder).fingerprint == first
    seen = {first}
    save_config(replace(CONFIG, max_input_tokens=99), folder)
    seen.add(Checkpoint.load(folder).fingerprint)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    seen.add(Checkpoint.load(folder).fingerprint)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    seen.add(Checkpoint.load(folder).fingerprint)
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [0, 7]}))  # where rationales end
    seen.add(Checkpoint.load(folder).fingerprint)
    assert len(seen) == 5


def test_the_fingerprint_follows_where_rationales_end(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [5, 7]}))
    seen = []
    for ends in ([5, 7], [7, 5], [5], [5, 7, 9]):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        seen.append(Checkpoint.load(folder).fingerprint)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model", "added_tokens.json"])
def test_the_fingerprint_follows_what_a_tokenizer_is_made_from(folder: Path, name: str) -> None:
    first = Checkpoint.load(folder).fingerprint
    (folder / name).write_text("river\n")  # nobody reads it beside tokenizer.json
    assert Checkpoint.load(folder).fingerprint == first
    (folder / "tokenizer.json").unlink()
    seen = {Checkpoint.load(folder).fingerprint}
    (folder / name).write_text("hill\n")
    assert Checkpoint.load(folder).fingerprint not in seen


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_a_model_that_reads_by_other_factors_in_a_short_context_has_another_fingerprint_there(
    folder: Path, key: str
) -> None:
    def held_to(tokens: int | None) -> str:
        return Checkpoint.load(folder, max_context_tokens=tokens).fingerprint

    assert held_to(256) == held_to(None)
    config = json.loads((folder / "config.json").read_text())
    rope = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    (folder / "config.json").write_text(
        json.dumps({**config, "rope_parameters": None, key: rope, "original_max_position_embeddings": 512})
    )
    assert held_to(513) == held_to(None)
    assert held_to(512) == held_to(256) != held_to(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "upgrade"),
        ({"format": None}, "no 'format' number"),
        ({"pooling": "max"}, "'pooling' must be one of"),
        ({"similarity": "dot"}, "'similarity' must be 'cosine'"),
        ({"mode": "direct"}, "'mode' must give a role"),
        ({"mode": {"document": ["direct"]}}, "'mode' must give a role"),
        ({"mode": {"documents": "direct"}}, "'mode' must give a role"),
        ({"max_input_tokens": 0}, "'max_input_tokens' must be"),
        ({"max_rationale_tokens": True}, "'max_rationale_tokens' must be"),
        ({"instruction": {"document": "x"}}, "exactly the roles"),
        ({"instruction": {"document": "x", "query": " "}}, "not empty"),
        ({"generation": {"temperature": 9}}, "temperature"),
        ({"generation": {"temperature": True}}, "temperature"),
        ({"generation": {"seed": 1}}, "'temperature' alone"),
        ({"surprise": 1}, "unknown keys: surprise"),
    ],
)
def test_a_wrong_grace_json_is_refused_by_key(folder: Path, change: dict[str, Any], message: str) -> None:
    data = json.loads(CONFIG.to_json()) | change
    (folder / "grace.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.load(folder)


def test_missing_keys_are_named(folder: Path) -> None:
    data = json.loads(CONFIG.to_json())
    del data["pooling"], data["instruction"]
    (folder / "grace.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="lacks: instruction, pooling"):
        Checkpoint.load(folder)


@pytest.mark.parametrize("name", ["no such thing", "no/such/thing", "owner/not-in-the-local-cache"])
def test_a_name_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.load(name)


def test_damage_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        Checkpoint.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        Checkpoint.load(folder)


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        Checkpoint.load(folder)


@pytest.mark.parametrize("name", ["owner/model.git", "owner--x/model", "-owner/model", "owner/" + "m" * 100])
def test_a_name_that_the_hub_would_not_take_is_refused_as_one(name: str) -> None:
    with pytest.raises(CheckpointError, match="is neither a folder nor a hub id: "):
        Checkpoint.load(name)
