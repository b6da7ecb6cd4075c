"""One line that says how a run goes: reward, rationale length, tokens per second, time left."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback


class Progress(TrainerCallback):
    """A progress bar of update steps. It replaces transformers' own, which knows none of the figures."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._tokens, self._since = 0.0, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar on the main process."""
        if state.is_world_process_zero:
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step on."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """The figures of the last logged step; those of the held-out examples on a line of their own."""
        if state.is_world_process_zero and logs and "eval_ndcg_at_10" in logs:
            tqdm.write(
                f"step {state.global_step}: held-out nDCG@10 {logs['eval_ndcg_at_10']:.4f}, "
                f"InfoNCE {logs['eval_infonce']:.4f}, margin {logs['eval_margin']:.4f}",
                file=sys.stderr,
            )
        if self._bar is None or not logs or "reward" not in logs:
            return
        now, tokens = time.monotonic(), float(logs.get("num_tokens", 0))
        rate = (tokens - self._tokens) / max(now - self._since, 1e-9)
        self._tokens, self._since = tokens, now
        self._bar.set_postfix(
            reward=f"{logs['reward']:.3f}",
            length=f"{logs.get('completions/mean_length', 0):.0f}",
            tokens_per_s=f"{rate:.0f}",
            refresh=False,
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The run is through."""
        self.close()

    def close(self) -> None:
        """End the bar's line, also of a run that failed: what is said next begins a line of its own."""
        if self._bar is not None:
            self._bar.close()
