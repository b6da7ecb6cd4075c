"""One generation batch: which texts are rolled out, as which jobs, and what came of them.

B examples of this process, K rollouts, M negatives, H hidden size. A row is one entry of the training set: TRL hands
it K times in a run, and a group is that run, never the rows whose prompts are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from grace.prompt import Prompter
from grace.representation import Job
from grace_training.rewards import States


class Row(TypedDict):
    """One text to roll out K times, and what its rollouts are held against."""

    prompt: str  # the text itself; the column carries TRL's name
    anchor: str
    negatives: list[str]
    swapped: bool  # the text is the query, the anchor its positive
    supervised: bool
    example: int
    keys: list[int]  # hashes of the example's texts: examples that share one are no negatives of each other


class Written(NamedTuple):
    """Rationales written for some jobs."""

    token_ids: list[list[int]]  # sampled, the stop token included
    states: Tensor | None  # (N, H) pooled, if the pass that wrote them gave them


@dataclass
class Batch:
    """The jobs of a generation batch on this process, in order."""

    rows: list[Row]  # B
    K: int
    jobs: list[Job]  # B, of the texts rolled out K times
    anchor_jobs: list[Job]  # B
    negative_jobs: list[Job]  # B * M
    negative_mask: Tensor  # (B, M) bool

    @classmethod
    def build(cls, rows: list[Row], K: int, prompter: Prompter, *, max_tokens: int, num_negatives: int) -> Batch:
        """Prompts for rows that are already one per example."""

        def job(text: str, role: Any) -> Job:
            return prompter.job(text, role=role, max_rationale_tokens=max_tokens)

        def anchor_role(row: Row) -> str:
            return "query" if row["supervised"] and not row["swapped"] else "document"

        # Every process must generate equally many texts: where negatives lack, the anchor stands in, masked out.
        negatives = [[*row["negatives"], *[row["anchor"]] * num_negatives][:num_negatives] for row in rows]
        counts = torch.tensor([min(len(row["negatives"]), num_negatives) for row in rows])
        return cls(
            rows=rows,
            K=K,
            jobs=[job(row["prompt"], "query" if row["swapped"] else "document") for row in rows],
            anchor_jobs=[job(row["anchor"], anchor_role(row)) for row in rows],
            negative_jobs=[job(text, "document") for texts in negatives for text in texts],
            negative_mask=torch.arange(num_negatives) < counts[:, None],
        )

    @property
    def rollout_jobs(self) -> list[Job]:
        """B * K, each job K times in a run."""
        return [job for job in self.jobs for _ in range(self.K)]

    def spliced(self, fresh: Batch, at: list[int]) -> Batch:
        """With the examples `at` replaced by the first examples of `fresh`."""
        M = self.negative_mask.shape[1]
        new = replace(
            self,
            rows=list(self.rows),
            jobs=list(self.jobs),
            anchor_jobs=list(self.anchor_jobs),
            negative_jobs=list(self.negative_jobs),
            negative_mask=self.negative_mask.clone(),
        )
        for n, i in enumerate(at):
            new.rows[i], new.jobs[i], new.anchor_jobs[i] = fresh.rows[n], fresh.jobs[n], fresh.anchor_jobs[n]
            new.negative_jobs[i * M : (i + 1) * M] = fresh.negative_jobs[n * M : (n + 1) * M]
            new.negative_mask[i] = fresh.negative_mask[n]
        return new

    def states(
        self, anchors: Tensor, rollouts: Tensor, negatives: Tensor, gather: Callable[[Tensor], Tensor]
    ) -> States:
        """The states of all processes' batches, given this one's: (B, H), (B*K, H), (B*M, H).

        `gather` concatenates over processes. Which examples compete is decided here, over the whole.
        """
        B, H = anchors.shape
        M = self.negative_mask.shape[1]
        device = anchors.device
        keys = gather(torch.tensor([row["keys"] for row in self.rows], device=device))
        swapped = gather(torch.tensor([row["swapped"] for row in self.rows], device=device))
        mask, N = self.negative_mask.to(device), len(keys)
        return States(
            anchors=gather(anchors),
            rollouts=gather(rollouts.view(B, self.K, H)),
            # Without negatives nothing is gathered: accelerate (1.15.0) cannot shape what NCCL makes of empty tensors.
            negatives=gather(negatives.view(B, M, H)) if M else anchors.new_zeros(N, 0, H),
            negative_mask=gather(mask) if M else mask.new_zeros(N, 0),
            competes=distinct(keys),
            swapped=swapped,
        )


def one_per_group(rows: list[Row], K: int) -> list[Row]:
    """Every K-th row, each run of K being one example.

    Raises:
        ValueError: a group is broken up.
    """
    groups = [rows[i : i + K] for i in range(0, len(rows), K)]
    if any(
        len(g) != K or any((r["example"], r["swapped"]) != (g[0]["example"], g[0]["swapped"]) for r in g)
        for g in groups
    ):
        raise ValueError(f"the batch does not hold whole groups of {K} rollouts")
    return [group[0] for group in groups]


def distinct(keys: Tensor) -> Tensor:
    """(B, 2) hashes of the texts of each example -> (B, B) bool: the two examples have no text in common."""
    shared = keys[:, None, :, None] == keys[None, :, None, :]  # (B, B, 2, 2)
    return ~shared.flatten(start_dim=2).any(dim=-1)


def cut_off(token_ids: list[int], limit: int, stop_ids: tuple[int, ...]) -> bool:
    """Whether a rationale met the limit before it ended."""
    return len(token_ids) >= limit and token_ids[-1] not in stop_ids


class Drawn(NamedTuple):
    """All that was written for a batch."""

    rollouts: Written  # B * K
    anchors: Written  # B
    negatives: Written  # B * M
    greedy: Written | None  # B, where the algorithm has a greedy baseline

    def spliced(self, fresh: Drawn, at: list[int], B: int) -> Drawn:
        """With the groups `at` replaced by the first groups of `fresh`."""
        merged = [
            old if old is None or new is None or not old.token_ids else _spliced(old, new, at, len(old.token_ids) // B)
            for old, new in zip(self, fresh, strict=True)
        ]
        return Drawn(*merged)  # type: ignore[arg-type] # None only where it was


def _spliced(old: Written, new: Written, at: list[int], width: int) -> Written:
    assert old.states is not None
    assert new.states is not None
    token_ids, states = list(old.token_ids), old.states.clone()
    for n, group in enumerate(at):
        into, source = slice(group * width, (group + 1) * width), slice(n * width, (n + 1) * width)
        token_ids[into], states[into] = new.token_ids[source], new.states[source]
    return Written(token_ids, states)
