"""What is logged about a batch of rewards. Pure; the names are those of the curves."""

from __future__ import annotations

import torch
from torch import Tensor

from grace_training.rewards import RewardParts, States, unit


def reward_metrics(states: States, parts: RewardParts, paid: Tensor, cut_off: Tensor) -> dict[str, float]:
    """Means over the global batch: reward parts, and the signs of a reward that is satisfied the wrong way.

    `spread` is the mean similarity between rollouts of different examples: near 1, all texts have become one.
    `top1` is how often a rollout's nearest anchor is its own. `group_std` is what the advantage has to work with.
    """
    anchors, rollouts = unit(states.anchors), unit(states.rollouts)
    B = len(rollouts)
    nearest = torch.einsum("bkh,jh->bkj", rollouts, anchors).argmax(dim=-1)
    own = torch.arange(B, device=nearest.device)[:, None]
    centres = rollouts.mean(dim=1)
    between = centres @ centres.T
    pairs = max(1, B * (B - 1))
    return {
        "grace/contrastive": parts.contrastive.mean().item(),
        "grace/consistency": parts.consistency.mean().item(),
        "grace/hard": parts.hard.mean().item(),
        "grace/paid": paid.mean().item(),
        "grace/group_std": paid.std(dim=1).mean().item(),
        "grace/cut_off": cut_off.float().mean().item(),
        "grace/spread": ((between.sum() - between.diagonal().sum()) / pairs).item(),
        "grace/top1": (nearest == own).float().mean().item(),
    }
