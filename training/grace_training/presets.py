"""The three presets of the reward: one frozen value each. What a run changes, it changes on top of one of them.

`paper` is the published formula. `official` is what the released code does where that differs and where the difference
is a choice; its plain faults (groups merged by equal prompts, swallowed exceptions, a search for the system prompt) are
not rebuilt, docs/paper.md lists them. `improved` is ours: every term is evaluated at each rollout, so that none of it
is constant within a group and lost in the advantage.

Left out on purpose: learning rates, batch sizes and steps. They belong to a recipe, not to the meaning of the reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PresetName = Literal["paper", "official", "improved"]
Algorithm = Literal["grpo", "dapo", "reinforce++", "remax"]
Objective = Literal["supervised", "unsupervised"]
Contrast = Literal["margin", "infonce"]
Hard = Literal["anchor", "rollout"]
LengthRule = Literal["replace", "floor", "none"]

PRESETS: tuple[PresetName, ...] = get_args(PresetName)
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """The reward of one run. Weights and temperature carry the paper's symbols in their comments."""

    contrast: Contrast = "margin"  # R_CL as published, or the log-probability of the anchor given the rollout
    hard: Hard = "anchor"  # R_hard read at the anchor (published) or at each rollout
    consistency_weight: float = 0.2  # lambda1
    hard_weight: float = 0.2  # lambda2
    temperature: float = 0.1  # tau; not the temperature of sampling
    length_rule: LengthRule = "replace"  # what becomes of a rationale that was cut off
    length_margin: float = 1.0  # how far below its group `floor` puts a cut-off rationale
    length_cost: float = 0.0  # subtracted per token of rationale
    overlong_buffer: int = 0  # DAPO's soft punishment starts this many tokens before the limit; 0 is off
    dimensions: tuple[int, ...] = ()  # Matryoshka: average the reward over vectors cut to these sizes; () is whole
    skip_duplicates: bool = False  # examples that share a text do not compete with each other
    zero_greedy_baseline: bool = False  # ReMax without its baseline, as released


def preset(name: PresetName, objective: Objective) -> RewardSettings:
    """The settings a preset stands for."""
    match name:
        case "paper":
            return RewardSettings()
        case "official":
            # Unsupervised, the released code compares each rollout with the other examples' anchors and takes no
            # maximum, unlike the formula it prints.
            return RewardSettings(
                hard="rollout" if objective == "unsupervised" else "anchor", zero_greedy_baseline=True
            )
        case "improved":
            # The InfoNCE term already holds the other examples, so a second term for them would count them twice; and
            # rollouts that find their anchor agree. R_consist by itself is paid in full when all texts get one
            # rationale: at 0.2 / 0.1 it outbid the contrast in our first run (docs/training.md).
            return RewardSettings(
                contrast="infonce",
                consistency_weight=0.0,
                hard_weight=0.0,
                length_rule="floor",
                skip_duplicates=True,
            )


def inert_terms(
    settings: RewardSettings, algorithm: Algorithm, objective: Objective, *, K: int, swapped: bool
) -> list[str]:
    """What of the reward is equal for all K rollouts of a group and therefore leaves no trace in the gradient.

    `swapped` is true when queries are rolled out too: a rolled-out query meets its negatives itself.
    """
    if algorithm == "reinforce++" or (algorithm == "remax" and settings.zero_greedy_baseline):
        return []  # the baseline is the batch's, or zero, so such terms stay: as noise per query
    inert = []
    if settings.contrast == "margin" and objective == "supervised":
        inert.append("similarity to the negatives" + (" (of rolled-out documents)" if swapped else ""))
    if settings.hard == "anchor" and settings.hard_weight:
        inert.append("R_hard")
    if K == 2 and settings.consistency_weight and algorithm != "remax":  # whose greedy rollout agrees with each alone
        inert.append("R_consist")  # two rollouts agree with each other equally
    return inert
