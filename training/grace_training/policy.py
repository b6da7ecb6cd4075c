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
    instruction: str | dict[Role, str] | None = None,  # one text serves both roles, as in the paper
) -> Prompter:
    """The prompter of a run; its checkpoint's config is what the trained model will carry.

    Raises:
        grace.errors.CheckpointError: the model cannot be used; the message says why.
    """
    checkpoint = Checkpoint.load(model)
    config = replace(
        checkpoint.config,
        max_input_tokens=max_input_tokens,
        max_rationale_tokens=max_rationale_tokens,
        pooling=pooling,
        provenance={},
    )
    if isinstance(instruction, str):
        config = replace(config, instruction=dict.fromkeys(get_args(Role), instruction))
    elif instruction:
        config = replace(config, instruction={**config.instruction, **instruction})
    return Prompter(replace(checkpoint, config=config))
