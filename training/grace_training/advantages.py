"""From rewards to advantages: pure functions, one per algorithm. B examples, K rollouts, N = B*K, T tokens.

Left out: RLOO, which is GRPO without std times K/(K-1), and so the same direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-4  # keeps a group without spread finite; the same value as TRL's


def grpo(
    rewards: Tensor,  # (B, K)
    *,
    scale: bool,
) -> Tensor:  # (B, K)
    """A = r - mean of the group, over its std if `scale` (GRPO, arXiv 2402.03300; GRACE leaves the std out)."""
    assert rewards.ndim == 2
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + EPSILON) if scale else centred


def dapo(rewards: Tensor) -> Tensor:
    """(B, K) -> (B, K). GRPO's scaled advantage; DAPO changes the loss and the sampling (arXiv 2503.14476, eq. 9)."""
    return grpo(rewards, scale=True)


def flat_groups(rewards: Tensor, *, least_std: float) -> Tensor:
    """(B, K) -> (B,) bool: groups whose rollouts are all worth the same, which DAPO's dynamic sampling replaces."""
    assert rewards.ndim == 2
    return rewards.std(dim=1) < least_std


def remax(
    rewards: Tensor,  # (B, K)
    greedy: Tensor,  # (B,) reward of the greedy rollout of the same text
) -> Tensor:  # (B, K)
    """A = r - r(greedy rollout) (ReMax, arXiv 2310.10505, eq. 6)."""
    assert rewards.ndim == 2
    assert greedy.shape == rewards.shape[:1]
    return rewards - greedy[:, None]


def returns(
    rewards: Tensor,  # (N,)
    kl: Tensor,  # (N, T) log pi_old - log pi_ref of each sampled token
    mask: Tensor,  # (N, T) 1 where a token was sampled
    coefficient: float,
) -> Tensor:  # (N, T)
    """G_t = r - coefficient * sum over s >= t of KL_s: REINFORCE++'s penalty per token (arXiv 2501.03262, eq. 8)."""
    assert kl.shape == mask.shape
    later = (kl * mask).flip(dims=[1]).cumsum(dim=1).flip(dims=[1])
    return (rewards[:, None] - coefficient * later) * mask


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """(3,) float64: count, sum and sum of squares of the masked values; moments of parts add up over processes."""
    wide, weight = values.double(), mask.double()
    return torch.stack([weight.sum(), (wide * weight).sum(), (wide.square() * weight).sum()])


def reinforce_pp(values: Tensor, total: Tensor) -> Tensor:
    """A = (value - mean) / std over the whole batch (REINFORCE++, eq. 9), of which `total` (3,) are the moments.

    `values` are rewards (B, K), or returns (N, T) when there is a KL penalty per token.
    """
    count, summed, squared = total.unbind()
    mean = summed / count
    std = (squared / count - mean.square()).clamp(min=0).sqrt()
    return ((values.double() - mean) / (std + EPSILON)).to(values.dtype)
