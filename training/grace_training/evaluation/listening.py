"""Which texts a task embeds, learnt by letting mteb run it on a model that only listens.

So a training set is drawn, a clustering set thinned out and titles joined exactly as in the evaluation itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import mteb
import numpy as np
from mteb.abstasks import AbsTask
from mteb.models.abs_encoder import AbsEncoder
from mteb.types import PromptType

from grace.representation import Floats, Role
from grace_training.evaluation.mteb_model import model_meta, role_of, texts_of

_NOISE = 8  # dimensions of what the listener answers
Hear = Callable[[Iterable[str], Role], None]


class Listener(AbsEncoder):
    """Hands every text to `hear` and answers with noise."""

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self.mteb_model_meta = model_meta("listener/listener", revision="1")

    def encode(self, inputs: Any, *, prompt_type: PromptType | None = None, **kwargs: Any) -> Floats:
        """(N, 8) noise, the same for the same N."""
        count = 0

        def counted() -> Iterable[str]:
            nonlocal count
            for text in texts_of(inputs):
                count += 1
                yield text

        self._hear(counted(), role_of(prompt_type))
        return np.random.default_rng(count).standard_normal((count, _NOISE), dtype=np.float32)


def listen(task: AbsTask, hear: Hear) -> None:
    """Let `hear` have all texts of a task, in the pieces in which mteb embeds them; each must be read to its end."""
    run_through(Listener(hear), task)


def run_through(model: Any, task: AbsTask) -> None:
    """Let mteb run a task on a model for what passes through it: no score is kept."""
    mteb.evaluate(
        model,
        task,
        cache=None,
        encode_kwargs={"batch_size": 256, "show_progress_bar": False},
        show_progress_bar=False,
        co2_tracker=False,
    )


def texts_of_task(task: AbsTask, *, at_most: int) -> list[str]:
    """The first texts that a task embeds."""
    texts: list[str] = []

    def hear(piece: Iterable[str], role: Role) -> None:
        texts.extend(itertools.islice(piece, at_most - len(texts)))
        for _ in piece:  # mteb expects a vector for every text
            pass

    listen(task, hear)
    return texts
