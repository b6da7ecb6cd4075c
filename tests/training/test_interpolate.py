"""Half of what was learned: the weights lie between, the checkpoint is whole, and a wrong base is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from grace.checkpoint import Checkpoint
from grace_training.cli import main as train
from grace_training.interpolate import between, main
from tests.support.models import make_model
from tests.training.conftest import embed

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11}


def network(seed: int) -> Any:
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=1, tie_word_embeddings=True, dtype=torch.float32))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


@given(share=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_every_weight_lies_at_its_share_of_the_way(share: float, seed: int) -> None:
    base, trained = network(seed), network(seed + 1)
    start, end = ({name: w.double().clone() for name, w in m.state_dict().items()} for m in (base, trained))
    found = between(base, trained, share)
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(weight.double(), start[name] * (1 - share) + end[name] * share, atol=1e-7, rtol=1e-6)
    assert found.lm_head.weight is found.model.embed_tokens.weight


def test_a_checkpoint_is_taken_halfway_back(words: list[str], tmp_path: Path, model_folder: Path, capsys: Any) -> None:
    assert train(words) == 0
    trained, half, quarter = tmp_path / "run" / "final", tmp_path / "half", tmp_path / "quarter"
    between_them = ["--base", str(model_folder), "--trained"]
    assert main([*between_them, str(trained), "--out", str(half)]) == 0
    assert main([*between_them, str(half), "--out", str(quarter)]) == 0
    assert f"checkpoint: {quarter}" in capsys.readouterr().out

    start, end = weights(model_folder), weights(trained)
    for folder, share in ((half, 0.5), (quarter, 0.25)):
        checkpoint = Checkpoint.load(folder)
        assert checkpoint.config.provenance["share"] == share
        assert checkpoint.config.provenance["steps"] == 2
        assert not checkpoint.config.provenance["scores"]
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"{share:.0%} is kept" in card
        assert "Held-out scores" not in card
        for name, weight in weights(folder).items():
            torch.testing.assert_close(weight, start[name].lerp(end[name], share), atol=1e-6, rtol=1e-5)
    assert (half / "curves.svg").exists()
    vectors = [embed(folder, "Who built it?", "direct").vector() for folder in (model_folder, half, trained)]
    assert vectors[0] @ vectors[2] < min(vectors[0] @ vectors[1], vectors[1] @ vectors[2])


def test_precision_stays_that_of_what_was_trained(tmp_path: Path, model_folder: Path, words: list[str]) -> None:
    assert train(words) == 0
    trained = tmp_path / "run" / "final"
    AutoModelForCausalLM.from_pretrained(trained, dtype=torch.bfloat16).save_pretrained(trained)
    assert main(["--base", str(model_folder), "--trained", str(trained), "--out", str(tmp_path / "half")]) == 0
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert {weight.dtype for weight in kept.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "nan"])
def test_a_share_that_is_none_is_refused(share: str, model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    folders = ["--base", str(model_folder), "--trained", str(model_folder), "--out", str(tmp_path / "half")]
    assert main([*folders, f"--share={share}"]) == 2
    assert "share is" in capsys.readouterr().err


def test_another_base_is_refused(words: list[str], tmp_path: Path, model_folder: Path, capsys: Any) -> None:
    assert train(words) == 0
    trained, out = tmp_path / "run" / "final", tmp_path / "half"
    other = make_model(tmp_path / "other", seed=5)
    assert main(["--base", str(other), "--trained", str(trained), "--out", str(out)]) == 2
    assert "was not trained from" in capsys.readouterr().err
    assert main(["--base", str(model_folder), "--trained", str(model_folder), "--out", str(out)]) == 2
    assert "was not trained from" in capsys.readouterr().err
    copied = shutil.copytree(model_folder, tmp_path / "copied")
    assert main(["--base", str(copied), "--trained", str(trained), "--out", str(trained)]) == 2
    assert "another folder" in capsys.readouterr().err
    assert main(["--base", str(tmp_path / "nothing"), "--trained", str(trained), "--out", str(out)]) == 2
    assert not out.exists()
