"""The part of the trainer that pays: from what was written to the rewards of all processes' rollouts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grace_training.errors import NonFiniteReward
from grace_training.generation import RolloutTrainer
from grace_training.metrics import reward_metrics
from grace_training.presets import RewardSettings
from grace_training.rewards import RewardParts, States, score, with_lengths
from grace_training.rollouts import Batch, Drawn, cut_off


class PayingTrainer(RolloutTrainer):
    """Rewards over the batches of all processes. What the last batch was paid stays at hand for advantages and logs."""

    settings: RewardSettings
    _states: States | None = None
    _parts: RewardParts
    _cut_off: Tensor  # (B, K) bool
    _paid: Tensor  # (B, K)
    _greedy_paid: Tensor | None = None  # (B,)

    def pay(self, batch: Batch, drawn: Drawn) -> Tensor:
        """(B, K) rewards of the batches of all processes, and what they came from left in `_states` and `_parts`.

        Raises:
            NonFiniteReward: before it could reach the weights.
        """
        gather, limit = self.accelerator.gather, self.max_completion_length
        rollouts, anchors, negatives = drawn.rollouts, drawn.anchors, drawn.negatives
        assert rollouts.states is not None
        assert anchors.states is not None
        assert negatives.states is not None
        states = batch.states(anchors.states, rollouts.states, negatives.states, gather)
        if not self.settings.skip_duplicates and not self.args.symmetric:
            states = states._replace(
                competes=~torch.eye(len(states.anchors), dtype=torch.bool, device=states.anchors.device)
            )
        self._states, self._parts = states, score(states, self.settings)
        lengths, cut = self._lengths(rollouts.token_ids)
        self._cut_off = gather(cut).view(-1, batch.K)
        self._greedy_paid = self._pay_greedy(batch, drawn)
        paid = with_lengths(
            self._parts.total,
            gather(lengths).view(-1, batch.K),
            self._cut_off,
            self.settings,
            limit=limit,
            baseline=self._greedy_paid,
            batch_baseline=self.args.algorithm == "reinforce++",
        )
        if not paid.isfinite().all():
            bad = sorted({row["example"] for row in batch.rows})
            raise NonFiniteReward(
                f"step {self.state.global_step}: a reward is NaN or infinite, and so are the states; examples {bad} "
                "were in the batch. Nothing was learned from it. A lower learning rate or float32 may help"
            )
        self._paid = paid
        return paid

    def _pay_greedy(self, batch: Batch, drawn: Drawn) -> Tensor | None:
        if drawn.greedy is None:
            return None
        assert drawn.greedy.states is not None
        assert self._states is not None
        gather = self.accelerator.gather
        lengths, cut = self._lengths(drawn.greedy.token_ids)
        total = score(self._states, self.settings, candidates=gather(drawn.greedy.states)[:, None]).total
        # A baseline is only compared with: `floor` lowers rollouts against it, never the baseline itself.
        floor = self.settings.length_rule == "floor"
        settings = replace(self.settings, length_rule="none") if floor else self.settings
        return with_lengths(
            total,
            gather(lengths)[:, None],
            gather(cut)[:, None],
            settings,
            limit=self.max_completion_length,
        )[:, 0]

    def _lengths(self, token_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """(N,) tokens written, (N,) bool cut off at the limit."""
        # The released code knows the tokenizer's end token alone, so a text ended by another stop id counts as cut.
        stops = (self.prompter.tokenizer.eos_token_id,) if self.args.preset == "official" else self.prompter.stop_ids
        device, limit = self.accelerator.device, self.max_completion_length
        return (
            torch.tensor([float(len(ids)) for ids in token_ids], device=device),
            torch.tensor([cut_off(ids, limit, stops) for ids in token_ids], device=device),
        )

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        paid = self.pay(self._batch, self._drawn)
        assert self._states is not None
        for name, value in reward_metrics(self._states, self._parts, paid, self._cut_off).items():
            self._log_metric(name, value)
        for name in ("contrastive", "consistency", "hard"):
            self._log_completion_extra(name, self._local(getattr(self._parts, name)).flatten().tolist())
        return paid.reshape(-1, 1)

    def _local(self, values: Tensor) -> Tensor:
        """The part of this process, of what belongs to all examples."""
        return values.view(self.accelerator.num_processes, -1, *values.shape[1:])[self.accelerator.process_index]
