"""Each algorithm's advantage against a loop in float64."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from grace_training import advantages

REWARDS = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.5, 0.5], [-3.0, 0.0, 3.5]], dtype=torch.float64)


@pytest.mark.parametrize("scale", [False, True])
def test_grpo_centres_each_group(scale: bool) -> None:
    got = advantages.grpo(REWARDS, scale=scale)
    for i, row in enumerate(REWARDS.tolist()):
        mean, std = statistics.fmean(row), statistics.stdev(row)
        for k, value in enumerate(row):
            expected = (value - mean) / (std + 1e-4) if scale else value - mean
            assert math.isclose(got[i, k], expected, abs_tol=1e-12)


def test_dapo_keeps_the_scaled_advantage_and_names_flat_groups() -> None:
    got = advantages.dapo(REWARDS)
    for i, row in enumerate(REWARDS.tolist()):
        mean, std = statistics.fmean(row), statistics.stdev(row)
        assert got[i].tolist() == pytest.approx([(value - mean) / (std + 1e-4) for value in row], abs=1e-12)
    assert advantages.flat_groups(REWARDS, least_std=1e-3).tolist() == [False, True, False]


def test_remax_subtracts_the_greedy_reward() -> None:
    greedy = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    got = advantages.remax(REWARDS, greedy)
    for i, row in enumerate(REWARDS.tolist()):
        assert got[i].tolist() == pytest.approx([value - float(greedy[i]) for value in row])


def test_reinforce_pp_normalises_over_the_batch() -> None:
    total = advantages.moments(REWARDS, torch.ones_like(REWARDS))
    got = advantages.reinforce_pp(REWARDS, total)
    flat = REWARDS.flatten().tolist()
    mean, std = statistics.fmean(flat), statistics.pstdev(flat)
    assert got.flatten().tolist() == pytest.approx([(v - mean) / (std + 1e-4) for v in flat])
    assert abs(float(got.mean())) < 1e-12


def test_reinforce_pp_charges_the_divergence_that_is_still_to_come() -> None:
    rewards = torch.tensor([1.0, -2.0], dtype=torch.float64)
    kl = torch.tensor([[0.1, 0.2, 0.4], [0.5, -0.3, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0]], dtype=torch.float64)
    got = advantages.returns(rewards, kl, mask, coefficient=0.5)
    for n, length in enumerate((3, 2)):
        for t in range(length):
            expected = float(rewards[n]) - 0.5 * sum(float(kl[n, s]) for s in range(t, length))
            assert math.isclose(got[n, t], expected, abs_tol=1e-12)
    assert got[1, 2] == 0
    normal = advantages.reinforce_pp(got, advantages.moments(got, mask))
    kept = [float(normal[n, t]) for n, length in enumerate((3, 2)) for t in range(length)]
    assert abs(statistics.fmean(kept)) < 1e-12
    assert math.isclose(statistics.pstdev(kept), 1, abs_tol=1e-3)


def test_moments_of_parts_add_up_to_those_of_the_whole() -> None:
    ones = torch.ones_like(REWARDS)
    parts = advantages.moments(REWARDS[:1], ones[:1]) + advantages.moments(REWARDS[1:], ones[1:])
    torch.testing.assert_close(parts, advantages.moments(REWARDS, ones))
