"""Settings of grace-train: merged in order, taken as they are written, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grace_training.cli import main
from grace_training.deviations import ALWAYS, deviations
from grace_training.errors import BadRecipe
from grace_training.recipe import load_recipe
from grace_training.run import Run

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))
BACKBONE = "qwen2.5-1.5b-supervised.yaml"
NEGATIVES, HARD = "similarity to the negatives", "R_hard"
INERT = {  # what is not both of them, the published reward's
    "ablation-lambda2-0": {NEGATIVES},
    "ablation-lambdas-0": {NEGATIVES},
    "ablation-hard-per-rollout": {NEGATIVES},
    "ablation-reinforce-pp": set(),
    "cpu-learn": set(),
    "cpu-smoke": set(),
    **{path.stem: {HARD} for path in RECIPES if "unsupervised" in path.stem},
}


def test_later_recipes_and_words_win(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "data: a\noutput_dir: o\nlearning_rate: 1e-6\nreward: {temperature: 0.2}\n", encoding="utf-8"
    )
    recipe = load_recipe([tmp_path / "a.yaml"], ["data=b.txt", "reward.contrast=infonce", "save_strategy=no"])
    assert recipe.data == "b.txt"
    assert recipe.settings["learning_rate"] == 1e-6
    assert recipe.settings["save_strategy"] == "no"  # YAML says False
    assert recipe.settings["reward"] == {"temperature": 0.2, "contrast": "infonce"}
    (tmp_path / "b.yaml").write_text("reward: {hard_weight: 0.0}\nlearning_rate: 2e-6\n", encoding="utf-8")
    both = load_recipe([tmp_path / "a.yaml", tmp_path / "b.yaml"], []).settings
    assert both == {"output_dir": "o", "learning_rate": 2e-6, "reward": {"temperature": 0.2, "hard_weight": 0.0}}
    with pytest.raises(BadRecipe, match="data is missing"):
        load_recipe([], ["output_dir=o"])


def test_a_number_without_a_point_is_a_number_wherever_it_stands(words: list[str]) -> None:
    """YAML reads 1e-1 as a text."""
    given = ["dropout=1e-1", "reward.temperature=1e-1", "reward.length_cost=1e-3", "learning_rate=1e-6"]
    run = Run(load_recipe([], [*words, *given]), only_plan=True)
    assert run.recipe.dropout == 0.1
    assert run.args.learning_rate == 1e-6
    assert (run.args.reward_settings().temperature, run.args.reward_settings().length_cost) == (0.1, 0.001)


def test_a_setting_that_is_a_list_is_taken_as_one(words: list[str]) -> None:
    assert load_recipe([], [*words, "include_for_metrics=[loss]"]).settings["include_for_metrics"] == ["loss"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("num_generation=4", "did you mean 'num_generations'"),
        ("learning_rate", "write key=value"),
        ("method=magic", "method must be one of"),
        ("model=nowhere/at/all", "neither a folder nor a hub id"),
        ("num_generations=1", "at least 2"),
        ("push_to_hub=name", "owner/name"),
        ("dropout=much", "dropout must be a number"),
        ("reward=0.1", "reward must be a mapping"),
        ("reward.temperature=cold", "reward.temperature must be a number, not 'cold'"),
        ("reward.temperature=.nan", "reward.temperature must be finite, not nan"),
        ("joint_weight=.inf", "joint_weight must be finite and not negative"),
        ("reward.length_cost=true", "reward.length_cost must be a number, not True"),
        ("reward.contrast=1", "reward.contrast must be a text, not 1"),
        ("reward.skip_duplicates=1", "reward.skip_duplicates must be true or false, not 1"),
        ("reward.dimensions=32", "reward.dimensions must be a list of whole numbers above 0, not 32"),
        ("reward.dimensions=[8, 4096]", "reward.dimensions: 4096 is more than the"),
        ("reward.overlong_buffer=-5", "reward.overlong_buffer must not be negative"),
        ("seed.sub=1", "'seed.sub=1' reaches into seed, which is 7 and no mapping"),
        ("instruction={query", "'instruction={query' cannot be read"),
        ("instruction={reader: x}", "instruction must be a text, or one for each of document, query"),
        ("limit=few", "limit must be a whole number, not 'few'"),
        ("limit=0", "limit must be at least 1, not 0"),
        ("eval_limit=1.5", "eval_limit must be a whole number, not 1.5"),
        ("lora_rank=-1", "lora_rank must be at least 0, not -1"),
        ("skip_bad=maybe", "skip_bad must be true or false, not 'maybe'"),
        ("columns=[a]", "columns must map our columns to the data's"),
        ("data=5", "data must be a file, a list of files, or the name of a hub dataset, not 5"),
        ("output_dir=2026", "output_dir must be a text, not 2026: quote it"),
        ("max_steps=", "max_steps must be a whole number, not ''"),
        ("max_steps=null", "max_steps must be a whole number, not None"),
        ("num_negatives=1.5", "num_negatives must be a whole number, not 1.5"),
        ("symmetric=maybe", "symmetric must be true or false, not 'maybe'"),
        ("learning_rate=-1", "learning_rate must be finite and not negative"),
        ("gradient_accumulation_steps=0", "gradient_accumulation_steps must be at least 1, not 0"),
        ("max_input_tokens=0", "max_input_tokens must be at least 1, not 0"),
        ("temperature=0", "temperature must be above 0"),
        ("loss_type=dapper", "loss_type must be one of grpo, bnpo, dr_grpo, dapo, "),
        ("dynamic_sampling_tries=-1", "dynamic_sampling_tries must not be negative"),
        ("pool_in=nowhere", "pool_in must be one of generation, logprob, forward"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line_of_error(words: list[str], word: str, message: str, capsys: Any) -> None:
    assert main([*words, "seed=7", word, "--dry-run"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("grace-train: ")
    assert message in error


def test_a_run_that_is_saved_ends_between_two_generations(words: list[str], capsys: Any) -> None:
    """An epoch is one generation, and four steps are made from each."""
    given = [*words, "steps_per_generation=4", "save_steps=4", "max_steps=-1", "--dry-run"]
    for strategy in ("steps", "epoch"):
        assert main([*given, "num_train_epochs=1.5", f"save_strategy={strategy}"]) == 2
        assert "the last step, 6, falls inside a generation of 4 micro-steps" in capsys.readouterr().err
    best = [*given, "num_train_epochs=1.5", "save_strategy=best", "eval_strategy=steps", "eval_steps=4"]
    assert main(best) == 2
    assert "the last step, 6, falls inside a generation" in capsys.readouterr().err
    assert main([*best, "save_only_model=true"]) == 0  # is not gone on with
    assert main([*given, "num_train_epochs=1.5", "save_strategy=no"]) == 0
    assert main([*given, "num_train_epochs=2"]) == 0


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_can_be_looked_through_without_its_gpu(
    path: Path, words: list[str], capsys: Any, model_folder: Path, tmp_path: Path
) -> None:
    """Data and model stand in, an ablation comes after a backbone: looked at are the settings."""
    backbone = [] if not path.stem.startswith("ablation") else ["--config", str(path.with_name(BACKBONE))]
    files = [word for word in words if word.startswith(("data=", "eval_data=", "output_dir="))]
    assert main([*backbone, "--config", str(path), f"model={model_folder}", *files, "--dry-run"]) == 0
    report = capsys.readouterr().out.splitlines()
    assert any(line.startswith("memory     about") for line in report)
    inert = {line.split("inert")[1].split(":")[0].strip() for line in report if line.startswith("inert")}
    assert inert == INERT.get(path.stem, {NEGATIVES, HARD})
    if path.stem.startswith(("qwen", "llama")):
        config = Run(load_recipe([path], [f"model={model_folder}", *files]), only_plan=True).args
        assert config.bf16
        assert config.use_vllm
        assert deviations(config) == list(ALWAYS)  # the published settings, whole
        four = next(line for line in path.read_text(encoding="utf-8").splitlines() if "steps_per_generation=" in line)
        released = four.strip("# ").split(")")[0].split()
        config = Run(load_recipe([path], [f"model={model_folder}", *files, *released]), only_plan=True).args
        assert config.steps_per_generation == 4 * config.gradient_accumulation_steps
        assert config.generation_batch_size == 64 * 8
