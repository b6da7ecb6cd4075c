"""The reward, as pure functions of unit vectors. Equations: GRACE, arXiv 2510.04506; what is ours says so.

B examples, K rollouts of each, M negatives, L candidates to score, H hidden size. The anchor is the query of a
supervised example (or the positive, where roles are swapped) and another rollout of the same text in an unsupervised
one. Group: the K rollouts of one example. A term that is the same for a whole group is *inert*: an advantage with a
baseline per group (GRPO, ReMax) subtracts it again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grace_training.presets import LengthRule, RewardSettings


class States(NamedTuple):
    """Pooled states of one global batch, of any length: they are scaled to one where they are compared."""

    anchors: Tensor  # (B, H)
    rollouts: Tensor  # (B, K, H)
    negatives: Tensor  # (B, M, H)
    negative_mask: Tensor  # (B, M) bool, False where an example has fewer than M negatives
    competes: Tensor  # (B, B) bool, [i, j]: example j is another text than example i
    swapped: Tensor  # (B,) bool, True where the query is rolled out and the anchor is its positive


class RewardParts(NamedTuple):
    """What a reward is made of, before weights and temperature, and what it comes to."""

    contrastive: Tensor  # (B, L) R_CL, R_self, or tau times the InfoNCE log-probability
    consistency: Tensor  # (B, L) R_consist
    hard: Tensor  # (B, L) R_hard
    total: Tensor  # (B, L)


def unit(vectors: Tensor, dimensions: int | None = None) -> Tensor:
    """(..., H) -> (..., D): the first `dimensions`, scaled to length 1 in float32 or wider; zero stays zero."""
    wide = vectors if vectors.dtype == torch.float64 else vectors.float()
    return torch.nn.functional.normalize(wide[..., :dimensions], dim=-1)


def contrastive_margin(
    anchors: Tensor,  # (B, H) unit
    candidates: Tensor,  # (B, L, H) unit
    negatives: Tensor,  # (B, M, H) unit
    negative_mask: Tensor,  # (B, M) bool
    swapped: Tensor,  # (B,) bool
) -> Tensor:  # (B, L)
    """R_CL(i, k) = sim(h_qi, h_di+^k) - sum_m sim(h_qi, h_di-,m). With M = 0 it is R_self(i, k) = sim(anchor, h_xi^k).

    Inert: the sum over negatives, wherever the document is rolled out, for then it depends on the query alone. Not
    inert where roles are swapped: the rolled-out query meets the negatives itself.
    """
    assert anchors.ndim == 2
    assert candidates.ndim == negatives.ndim == 3
    positive = torch.einsum("bh,blh->bl", anchors, candidates)
    at_anchor = torch.einsum("bh,bmh->bm", anchors, negatives)[:, None].expand(-1, candidates.shape[1], -1)
    at_rollout = torch.einsum("blh,bmh->blm", candidates, negatives)
    similarity = torch.where(swapped[:, None, None], at_rollout, at_anchor)
    return positive - (similarity * negative_mask[:, None]).sum(dim=-1)


def infonce(
    anchors: Tensor,  # (B, H) unit
    candidates: Tensor,  # (B, L, H) unit
    rollouts: Tensor,  # (B, K, H) unit, those of the other examples compete
    negatives: Tensor,  # (B, M, H) unit
    negative_mask: Tensor,  # (B, M) bool
    competes: Tensor,  # (B, B) bool
    temperature: float,
) -> Tensor:  # (B, L), at most 0
    """Ours. log p(anchor i | candidate k): how surely a rollout finds its own anchor among everything else.

    exp(sim(c, a_i)/tau) over the sum of itself, exp(sim(c, n)/tau) of the example's negatives n, and for each competing
    example j of exp(sim(c, a_j)/tau) and exp(max_l sim(c, d_j^l)/tau). Everything is read at the candidate c, so no
    part of it is inert, save with B = 1 and M = 0, where it is 0.
    """
    assert candidates.ndim == rollouts.ndim == negatives.ndim == 3
    assert competes.shape == (len(anchors), len(anchors))
    own = torch.einsum("blh,bh->bl", candidates, anchors)
    others = torch.einsum("blh,jh->blj", candidates, anchors)
    documents = torch.einsum("blh,jkh->bljk", candidates, rollouts).amax(dim=-1)
    hard = torch.einsum("blh,bmh->blm", candidates, negatives)
    rivals = torch.cat(
        [
            others.masked_fill(~competes[:, None], -torch.inf),
            documents.masked_fill(~competes[:, None], -torch.inf),
            hard.masked_fill(~negative_mask[:, None], -torch.inf),
        ],
        dim=-1,
    )
    every = torch.cat([own[..., None], rivals], dim=-1) / temperature
    return own / temperature - torch.logsumexp(every, dim=-1)


def consistency(rollouts: Tensor) -> Tensor:
    """(B, K, H) unit -> (B, K). R_consist(i, k) = 1/(K-1) sum over j != k of sim(h_di^k, h_di^j).

    Inert: with K = 2, where both rollouts get the same value; K = 1 has no partner and is refused.
    """
    assert rollouts.ndim == 3
    K = rollouts.shape[1]
    if K < 2:
        raise ValueError("R_consist compares rollouts of one text: it needs at least two")
    summed = torch.einsum("bkh,bh->bk", rollouts, rollouts.sum(dim=1))
    return (summed - rollouts.square().sum(dim=-1)) / (K - 1)


def agreement(
    candidates: Tensor,  # (B, L, H) unit, none of them among the rollouts
    rollouts: Tensor,  # (B, K, H) unit
) -> Tensor:  # (B, L)
    """R_consist of a text outside the group, such as ReMax's greedy rollout: its mean similarity to all K (ours)."""
    return torch.einsum("blh,bkh->bl", candidates, rollouts) / rollouts.shape[1]


def hard_at_anchor(
    anchors: Tensor,  # (B, H) unit
    rollouts: Tensor,  # (B, K, H) unit
    competes: Tensor,  # (B, B) bool
) -> Tensor:  # (B,)
    """R_hard(i) = -1/(B-1) sum over other examples j of max_l sim(h_qi, h_dj^l); 0 where nothing competes.

    Inert: always. It has no index k.
    """
    assert rollouts.ndim == 3
    assert competes.shape == (len(anchors), len(anchors))
    nearest = torch.einsum("bh,jkh->bjk", anchors, rollouts).amax(dim=-1)
    return -(nearest * competes).sum(dim=1) / competes.sum(dim=1).clamp(min=1)


def hard_at_rollout(
    anchors: Tensor,  # (B, H) unit
    candidates: Tensor,  # (B, L, H) unit
    competes: Tensor,  # (B, B) bool
) -> Tensor:  # (B, L)
    """-1/(B-1) sum over other examples j of sim(h_di^k, anchor j): what the released code does without supervision.

    Inert: only with B = 1, where it is 0.
    """
    similarity = torch.einsum("blh,jh->blj", candidates, anchors)
    return -(similarity * competes[:, None]).sum(dim=-1) / competes.sum(dim=1).clamp(min=1)[:, None]


def score(states: States, settings: RewardSettings, *, candidates: Tensor | None = None) -> RewardParts:
    """R = (R_CL + lambda1 R_consist + lambda2 R_hard) / tau for each rollout, or each of `candidates` (B, L, H).

    Without `candidates` the rollouts themselves are scored, each against the others. With `dimensions` set, every part
    is the mean over vectors cut to those sizes (Matryoshka, ours). Lengths are no business of this function.
    """
    parts = [_score_at(states, settings, candidates, size) for size in settings.dimensions or (None,)]
    return RewardParts(*(torch.stack(values).mean(dim=0) for values in zip(*parts, strict=True)))


def _score_at(states: States, settings: RewardSettings, candidates: Tensor | None, size: int | None) -> RewardParts:
    anchors, rollouts, negatives = (unit(v, size) for v in (states.anchors, states.rollouts, states.negatives))
    scored = rollouts if candidates is None else unit(candidates, size)
    if settings.contrast == "margin":
        contrastive = contrastive_margin(anchors, scored, negatives, states.negative_mask, states.swapped)
    else:
        contrastive = settings.temperature * infonce(
            anchors, scored, rollouts, negatives, states.negative_mask, states.competes, settings.temperature
        )
    agreeing = consistency(rollouts) if candidates is None else agreement(scored, rollouts)
    if settings.hard == "anchor":
        hard = hard_at_anchor(anchors, rollouts, states.competes)[:, None].expand_as(contrastive)
    else:
        hard = hard_at_rollout(anchors, scored, states.competes)
    total = contrastive + settings.consistency_weight * agreeing + settings.hard_weight * hard
    return RewardParts(contrastive, agreeing, hard, total / settings.temperature)


def soft_overlong(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """(B, K) tokens -> (B, K) in [-1, 0]: 0 up to limit - buffer, then falling to -1 at the limit (DAPO, eq. 13)."""
    return ((limit - buffer - lengths) / buffer).clamp(min=-1.0, max=0.0)


def apply_length_rule(
    rewards: Tensor,  # (B, K)
    cut_off: Tensor,  # (B, K) bool, the rationale met the limit before it ended
    rule: LengthRule,
    *,
    margin: float,
    baseline: Tensor | None = None,  # (B,) what an algorithm will subtract, if it is no mean of these rewards
    batch_baseline: bool = False,  # the mean that will be subtracted is the batch's, not the group's
) -> Tensor:  # (B, K)
    """What a rationale that was cut off is worth.

    `replace` is the paper's: -1 in place of the whole reward. Where honest rewards lie below -1 it *rewards* cutting
    off. `floor` (ours) never does: wherever there is something to compare with, all cut-off rollouts get one value,
    `margin` below the least of all, so that their advantage is below zero and below every finished rollout's. In a
    group (or batch) where all are cut off, there is nothing to compare with, and their order stays.
    """
    assert rewards.shape == cut_off.shape
    match rule:
        case "none":
            return rewards
        case "replace":
            return torch.where(cut_off, -1.0, rewards)
        case "floor":
            least = rewards.amin(dim=1, keepdim=True)  # (B, 1)
            comparable = ~cut_off.all(dim=1, keepdim=True)
            if batch_baseline:
                least, comparable = rewards.amin().expand_as(least), (~cut_off.all()).expand_as(least)
            if baseline is not None:
                least, comparable = torch.minimum(least, baseline[:, None]), torch.ones_like(comparable)
            return torch.where(cut_off & comparable, least - margin, rewards)


def with_lengths(
    totals: Tensor,  # (B, L) R of `score`
    lengths: Tensor,  # (B, L) tokens written
    cut_off: Tensor,  # (B, L) bool
    settings: RewardSettings,
    *,
    limit: int,  # the most tokens a rationale may have
    baseline: Tensor | None = None,
    batch_baseline: bool = False,
) -> Tensor:  # (B, L)
    """What the policy is paid: R, less the cost of length, under the length rule. Everything here comes after 1/tau."""
    paid = totals - settings.length_cost * lengths
    if settings.overlong_buffer:
        paid = paid + soft_overlong(lengths, limit, settings.overlong_buffer)
    return apply_length_rule(
        paid,
        cut_off,
        settings.length_rule,
        margin=settings.length_margin,
        baseline=baseline,
        batch_baseline=batch_baseline,
    )
