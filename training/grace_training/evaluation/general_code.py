"""HumanEval's verdict on one completion. lm-eval calls these functions by their names in the task files."""

from __future__ import annotations

from typing import Any

from grace_training.evaluation import general_sandbox


def completion_passes(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the prompt, continued by the model, passes the problem's tests."""
    return {"pass@1": float(general_sandbox.run(program(doc, results[0])).passed)}


def answer_passes(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The same for a chat model's answer, which may close its code block and go on talking."""
    return {"pass@1": float(general_sandbox.run(program(doc, results[0].partition("```")[0])).passed)}


def program(doc: dict[str, Any], completion: str) -> str:
    """A program that raises when the completion is wrong."""
    return f"{doc['prompt']}{completion}\n\n{doc['test']}\n\ncheck({doc['entry_point']})\n"
