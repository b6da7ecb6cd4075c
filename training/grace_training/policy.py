"""The model a run starts from: a checkpoint as core reads it, under the budgets of the run."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from grace.checkpoint import Checkpoint
from grace.pooling import Pooling
from grace.prompt import Prompter
from grace.representation import Role


def open_policy(
    model: str,
    *,
    max_input_tokens: int,
    max_rationale_tokens: int,
    pooling: Pooling,
    direct: bool = False,  # what is trained pools the text alone: a baseline
    instruction: str | dict[Role, str] | None = None,  # one text serves both roles, as in the paper
) -> Prompter:
    """The prompter of a run; its checkpoint's config is what the trained model will carry, but for the provenance.

    That is still the base's, for the run to say what its base was trained on.

    Raises:
        grace.errors.CheckpointError: the model cannot be used; the message says why.
    """
    checkpoint = Checkpoint.load(model)
    config = replace(
        checkpoint.config,
        max_input_tokens=max_input_tokens,
        max_rationale_tokens=max_rationale_tokens,
        pooling=pooling,
    )
    if direct or set(config.mode.values()) == {"direct"}:  # rationales trained on a baseline are meant to be written
        config = replace(config, mode=dict.fromkeys(get_args(Role), "direct" if direct else "reason"))
    if isinstance(instruction, str):
        config = replace(config, instruction=dict.fromkeys(get_args(Role), instruction))
    elif instruction:
        config = replace(config, instruction={**config.instruction, **instruction})
    return Prompter(replace(checkpoint, config=config))
