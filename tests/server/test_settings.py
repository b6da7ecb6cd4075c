"""Where a setting comes from, and who sees it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import pytest
from pydantic import ValidationError

from grace.checkpoint import Checkpoint
from grace_server import cli
from grace_server.engine import identity, load_checkpoint
from grace_server.settings import Settings, unknown_variables


def test_flags_win_over_variables_over_the_file_over_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "grace.yaml"
    file.write_text("port: 1\nhost: 0.0.0.0\nmax_inputs: 7\nmodel_aliases: [a, b]\n")
    monkeypatch.setenv("GRACE_PORT", "2")
    monkeypatch.setenv("GRACE_HOST", "10.0.0.1")
    settings = Settings(config=file, port=3)
    assert (settings.port, settings.host, settings.max_inputs) == (3, "10.0.0.1", 7)
    assert settings.model_aliases == ("a", "b")
    assert settings.queue_timeout_s == Settings.model_fields["queue_timeout_s"].default
    monkeypatch.setenv("GRACE_CONFIG", str(file))
    assert Settings().max_inputs == 7


def test_the_file_must_exist_and_hold_settings_only(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Settings(config=tmp_path / "none.yaml")
    (tmp_path / "wrong.yaml").write_text("prot: 1\n")
    with pytest.raises(ValidationError, match="prot"):
        Settings(config=tmp_path / "wrong.yaml")


def test_keys_are_split_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACE_API_KEYS", "one-secret, another-secret ,")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["one-secret", "another-secret"]
    assert "secret" not in f"{settings!r} {settings} {settings.shown()} {settings.model_dump_json()}"


def test_secrets_inside_settings_are_not_shown() -> None:
    deep = [{"api_key": "hush"}, {"passwords": ["hush"]}, {"name": "b", "url": "https://me:hush@hub/x?a=b@c"}]
    arguments = {"hf_token": "hush", "deep": deep, "max_num_batched_tokens": 7, "tokenizer_mode": "mistral"}
    shown = Settings(engine_args=arguments, qdrant_url="http://me:hush@[::1]:6333").shown()
    assert "hush" not in str(shown)
    assert shown["qdrant_url"] == "http://[::1]:6333"
    asked = Settings(qdrant_url="https://hub/x?a=b&Api-Key=hush&c=d#token=no").shown()["qdrant_url"]
    assert asked == "https://hub/x?a=b&Api-Key=**********&c=d#token=no"
    assert shown["engine_args"]["hf_token"] == "**********"
    assert shown["engine_args"]["deep"][2] == {"name": "b", "url": "https://hub/x?a=b@c"}
    assert {name: shown["engine_args"][name] for name in ("max_num_batched_tokens", "tokenizer_mode")} == {
        "max_num_batched_tokens": 7,
        "tokenizer_mode": "mistral",
    }


def test_engine_arguments_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACE_ENGINE_ARGS", '{"seed": 7}')
    assert Settings().engine_args == {"seed": 7}


def test_the_tree_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_tracing_says_how_to_get_the_packages_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grace_server.settings.find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=r"in a checkout: pip install '\.\[tracing\]'"):
        Settings(tracing=True)


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="could never be admitted"):
        Settings(max_inputs=10_000)


def test_variables_that_are_no_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACE_PROT", "8001")
    monkeypatch.setenv("GRACE_PORT", "8001")
    monkeypatch.setenv("GRACE_CLIENT_URL", "http://localhost:8001")
    assert unknown_variables() == ["GRACE_PROT"]


def test_every_setting_has_a_flag_that_names_its_variable_and_default() -> None:
    text = " ".join(cli.parser().format_help().split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"GRACE_{name.upper()}" in text
        assert field.description
    assert "GRACE_QUEUE_TIMEOUT_S; 60.0" in text


def test_a_choice_is_a_switch_also_where_neither_is_the_default() -> None:
    def given(*argv: str) -> dict[str, Any]:
        return {name: value for name, value in vars(cli.parser().parse_args(argv)).items() if value is not None}

    assert given("--enforce-eager", "--no-cache") == {"enforce_eager": True, "cache": False}
    assert given("--no-enforce-eager") == {"enforce_eager": False}
    assert given() == {}


@pytest.mark.parametrize(
    ("argv", "told"), [(["--port", "99999"], "port"), (["--engine", "fake"], "engine"), (["--config", "no"], "no")]
)
def test_wrong_settings_end_with_code_2_and_their_name(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"port: [1", b"- port\n- host", b"17", b"host: \xff\xfe", b"port: 1\n\thost: x"])
def test_a_file_that_holds_no_settings_ends_with_code_2_and_its_name(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grace.yaml"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--config", str(path)])
    assert stopped.value.code == 2
    assert f"grace-serve: the configuration file {path}" in capsys.readouterr().err


def test_arguments_that_make_another_model_give_it_another_fingerprint(model_folder: Path) -> None:
    folder = str(model_folder)

    def fingerprint(**chosen: Any) -> str:
        return load_checkpoint(Settings(model=folder, **chosen)).fingerprint

    plain = Checkpoint.load(folder).fingerprint
    others = [
        fingerprint(engine_args=arguments)
        for arguments in (
            {"quantization": "fp8"},
            {"quantization": "bitsandbytes"},
            {"hf_overrides": {"rope_theta": 5e5}},
            {"hf_overrides": {"rope_theta": 5e5}, "quantization": "fp8"},
        )
    ]
    assert len({plain, *others}) == 5
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in others)
    assert fingerprint(engine_args={"quantization": "fp8", "seed": 1}) == others[0]
    assert fingerprint(engine_args={"quantization": None, "load_format": "fastsafetensors"}) == plain
    assert fingerprint(engine_args={"quantization": "fp8"}, engine="transformers") == plain


def test_what_one_device_computed_is_not_found_for_another(model_folder: Path) -> None:
    checkpoint = Checkpoint.load(model_folder)

    def on(device: str, engine: Literal["vllm", "transformers"] = "transformers") -> str:
        return identity(Settings(model=str(model_folder), engine=engine, device=device), checkpoint)

    assert len({on("cpu"), on("mps"), on("cuda")}) == 3
    assert on("cuda:1") == on("cuda")
    assert on("cpu", "vllm") == on("mps", "vllm")  # which finds its own


def test_what_gpus_of_replicas_computed_is_not_found_for_cpus(model_folder: Path) -> None:
    """The ingress has the cache, and no GPU itself."""
    checkpoint = Checkpoint.load(model_folder)

    def on_ray(gpus: float, *, replicated: bool = True) -> str:
        return identity(Settings(model=str(model_folder), ray_gpus=gpus), checkpoint, replicated=replicated)

    with patch("torch.cuda.is_available", lambda: False):
        assert on_ray(1) == on_ray(0.5) != on_ray(0)
        assert on_ray(1, replicated=False) == on_ray(0)  # `grace-serve` alone has none of Ray's settings
