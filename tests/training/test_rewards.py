"""Rewards against loops in float64 that are too plain to be wrong, and the identities the docs rely on."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace_training import rewards
from grace_training.advantages import grpo, remax
from grace_training.presets import RewardSettings, inert_terms, preset
from grace_training.rewards import States, apply_length_rule, score, soft_overlong

B, K, M, H = 4, 5, 2, 16


def states(seed: int = 0, *, batch: int = B, rollouts: int = K, negatives: int = M) -> States:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, H, generator=generator, dtype=torch.float64)

    return States(
        anchors=draw(batch),
        rollouts=draw(batch, rollouts) + 1,
        negatives=draw(batch, negatives),
        negative_mask=torch.ones(batch, negatives, dtype=torch.bool),
        competes=~torch.eye(batch, dtype=torch.bool),
        swapped=torch.zeros(batch, dtype=torch.bool),
    )


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True)) / (a.norm() * b.norm()))


def paper_total(s: States, i: int, k: int, lambda1: float, lambda2: float, tau: float) -> float:
    """The published formula, written as it is printed."""
    q, d = s.anchors, s.rollouts
    batch, count = len(q), d.shape[1]
    contrastive = cosine(q[i], d[i, k]) - sum(cosine(q[i], n) for n in s.negatives[i])
    consist = sum(cosine(d[i, k], d[i, j]) for j in range(count) if j != k) / (count - 1)
    hard = -sum(max(cosine(q[i], d[j, x]) for x in range(count)) for j in range(batch) if j != i) / (batch - 1)
    return (contrastive + lambda1 * consist + lambda2 * hard) / tau


def test_the_paper_preset_is_the_published_formula() -> None:
    s = states()
    total = score(s, preset("paper", "supervised")).total
    for i, k in itertools.product(range(B), range(K)):
        assert math.isclose(total[i, k], paper_total(s, i, k, 0.2, 0.2, 0.1), rel_tol=0, abs_tol=1e-12)


def test_unsupervised_reward_is_the_similarity_to_the_anchor() -> None:
    s = states(negatives=0)
    parts = score(s, preset("paper", "unsupervised"))
    for i, k in itertools.product(range(B), range(K)):
        assert math.isclose(parts.contrastive[i, k], cosine(s.anchors[i], s.rollouts[i, k]), abs_tol=1e-12)


def test_official_unsupervised_reads_the_hard_term_at_each_rollout() -> None:
    s = states(negatives=0)
    hard = score(s, preset("official", "unsupervised")).hard
    for i, k in itertools.product(range(B), range(K)):
        others = [cosine(s.rollouts[i, k], s.anchors[j]) for j in range(B) if j != i]
        assert math.isclose(hard[i, k], -sum(others) / (B - 1), abs_tol=1e-12)


def test_infonce_is_a_log_probability_over_all_that_competes() -> None:
    s, tau = states(), 0.1
    parts = score(s, RewardSettings(contrast="infonce", consistency_weight=0, hard_weight=0, temperature=tau))
    for i, k in itertools.product(range(B), range(K)):
        c = s.rollouts[i, k]
        own = math.exp(cosine(c, s.anchors[i]) / tau)
        rivals = [cosine(c, n) for n in s.negatives[i]]
        rivals += [cosine(c, s.anchors[j]) for j in range(B) if j != i]
        rivals += [max(cosine(c, d) for d in s.rollouts[j]) for j in range(B) if j != i]
        expected = math.log(own / (own + sum(math.exp(r / tau) for r in rivals)))
        assert math.isclose(parts.total[i, k], expected, abs_tol=1e-9)


@pytest.mark.parametrize("name", ["paper", "official"])
def test_negative_and_hard_terms_leave_no_trace_in_the_advantage(name: str) -> None:
    s = states()
    base = preset(name, "supervised")  # type: ignore[arg-type]
    other = s._replace(negatives=torch.randn_like(s.negatives))
    no_hard = RewardSettings(hard_weight=0.0, length_rule="none")
    with_terms, other_negatives = score(s, base).total, score(other, base).total
    without = score(s, no_hard).total
    assert (with_terms - without).abs().max() > 0.1  # they do change the reward
    for variant in (other_negatives, without):
        torch.testing.assert_close(grpo(with_terms, scale=False), grpo(variant, scale=False), atol=1e-9, rtol=0)
        torch.testing.assert_close(grpo(with_terms, scale=True), grpo(variant, scale=True), atol=1e-9, rtol=0)
    assert inert_terms(base, "grpo", "supervised", K=K, swapped=False) == ["similarity to the negatives", "R_hard"]


def test_the_terms_cancel_against_a_greedy_baseline_too() -> None:
    s = states()
    greedy = torch.randn(B, 1, H, dtype=torch.float64)
    other = s._replace(negatives=torch.randn_like(s.negatives))
    paper = preset("paper", "supervised")

    def advantage(x: States) -> torch.Tensor:
        return remax(score(x, paper).total, score(x, paper, candidates=greedy).total[:, 0])

    torch.testing.assert_close(advantage(s), advantage(other), atol=1e-9, rtol=0)


def test_without_a_baseline_the_terms_stay_in_the_advantage() -> None:
    """ReMax as released: nothing is subtracted."""
    s = states()
    other = s._replace(negatives=torch.randn_like(s.negatives))
    official = preset("official", "supervised")
    zero = torch.zeros(B, dtype=torch.float64)
    moved = remax(score(s, official).total, zero) - remax(score(other, official).total, zero)
    assert moved.abs().max() > 0.1
    assert inert_terms(official, "remax", "supervised", K=K, swapped=False) == []
    paper = inert_terms(preset("paper", "supervised"), "remax", "supervised", K=K, swapped=False)
    assert paper == ["similarity to the negatives", "R_hard"]


def test_improved_is_not_inert() -> None:
    s = states()
    improved = preset("improved", "supervised")
    changed_negatives = s._replace(negatives=torch.randn_like(s.negatives))
    changed_others = s._replace(anchors=torch.cat([s.anchors[:1], torch.randn_like(s.anchors[1:])]))
    before = grpo(score(s, improved).total, scale=False)
    assert (before - grpo(score(changed_negatives, improved).total, scale=False)).abs().max() > 1e-2
    assert (before - grpo(score(changed_others, improved).total, scale=False))[0].abs().max() > 1e-4
    assert inert_terms(improved, "grpo", "supervised", K=2, swapped=True) == []


def test_a_rolled_out_query_meets_its_negatives_itself() -> None:
    s = states()._replace(swapped=torch.tensor([True, False, True, False]))
    contrastive = score(s, preset("paper", "supervised")).contrastive
    for i, k in itertools.product(range(B), range(K)):
        reader = s.rollouts[i, k] if s.swapped[i] else s.anchors[i]
        expected = cosine(s.anchors[i], s.rollouts[i, k]) - sum(cosine(reader, n) for n in s.negatives[i])
        assert math.isclose(contrastive[i, k], expected, abs_tol=1e-12)


def test_two_rollouts_make_the_consistency_inert() -> None:
    values = rewards.consistency(rewards.unit(states(rollouts=2).rollouts))
    torch.testing.assert_close(values[:, 0], values[:, 1])
    paper = preset("paper", "supervised")
    for algorithm, told in (("grpo", True), ("dapo", True), ("remax", False), ("reinforce++", False)):
        found = [inert_terms(paper, algorithm, "supervised", K=n, swapped=False) for n in (2, 3)]  # type: ignore[arg-type]
        assert ["R_consist" in terms for terms in found] == [told, False]
    with pytest.raises(ValueError, match="at least two"):
        rewards.consistency(states(rollouts=1).rollouts)


def test_a_masked_negative_counts_for_nothing() -> None:
    s = states()
    masked = s._replace(negative_mask=torch.tensor([[True, False]] * B))
    for name in ("paper", "improved"):
        expected = score(
            s._replace(negatives=s.negatives[:, :1], negative_mask=s.negative_mask[:, :1]), preset(name, "supervised")
        )  # type: ignore[arg-type]
        torch.testing.assert_close(score(masked, preset(name, "supervised")).total, expected.total)  # type: ignore[arg-type]


def test_an_example_alone_has_no_hard_term() -> None:
    s = states(batch=1, negatives=0)
    assert score(s, preset("paper", "supervised")).hard.eq(0).all()
    improved = score(s, preset("improved", "supervised"))
    torch.testing.assert_close(improved.contrastive, torch.zeros_like(improved.contrastive))


def test_duplicates_do_not_compete() -> None:
    s = states()
    competes = s.competes.clone()
    competes[0, 1] = competes[1, 0] = False
    three = torch.tensor([0, 2, 3])
    alone = States(*(v[three] for v in s[:4]), competes=~torch.eye(3, dtype=torch.bool), swapped=s.swapped[three])
    for name in ("paper", "improved"):
        p = preset(name, "supervised")  # type: ignore[arg-type]
        torch.testing.assert_close(score(s._replace(competes=competes), p).total[0], score(alone, p).total[0])


def test_matryoshka_averages_the_reward_over_cut_vectors() -> None:
    s = states()

    def cut(size: int) -> torch.Tensor:
        pieces = {name: getattr(s, name)[..., :size] for name in ("anchors", "rollouts", "negatives")}
        return score(s._replace(**pieces), preset("improved", "supervised")).total

    both = RewardSettings(contrast="infonce", consistency_weight=0.0, hard_weight=0.0, dimensions=(4, H))
    torch.testing.assert_close(score(s, both).total, (cut(4) + cut(H)) / 2)


@pytest.mark.parametrize("weight", ["consistency_weight", "hard_weight"])
def test_a_weight_of_zero_removes_its_term(weight: str) -> None:
    s = states()
    on, off = RewardSettings(), RewardSettings(**{weight: 0.0})  # type: ignore[arg-type]
    part = {"consistency_weight": "consistency", "hard_weight": "hard"}[weight]
    removed = 0.2 * getattr(score(s, on), part) / 0.1
    torch.testing.assert_close(score(s, on).total - score(s, off).total, removed)


def test_the_greedy_candidate_is_consistent_with_all_rollouts() -> None:
    s = states()
    greedy = torch.randn(B, 1, H, dtype=torch.float64)
    parts = score(s, preset("paper", "supervised"), candidates=greedy)
    for i in range(B):
        expected = sum(cosine(greedy[i, 0], d) for d in s.rollouts[i]) / K
        assert math.isclose(parts.consistency[i, 0], expected, abs_tol=1e-12)


def test_gradients_flow_through_the_reward() -> None:
    s = states()
    d = s.rollouts.clone().requires_grad_()
    score(s._replace(rollouts=d), preset("improved", "supervised")).total.sum().backward()
    assert d.grad is not None
    assert d.grad.abs().sum() > 0


def test_replace_can_reward_a_cut_off_rationale_and_floor_cannot() -> None:
    hard_example = torch.tensor([[-3.0, -2.5, -2.0]])
    cut = torch.tensor([[False, False, True]])
    replaced = grpo(apply_length_rule(hard_example, cut, "replace", margin=1.0), scale=False)
    floored = grpo(apply_length_rule(hard_example, cut, "floor", margin=1.0), scale=False)
    assert replaced[0, 2] > 0  # the published rule: cutting off pays here
    assert floored[0, 2] < floored[0, :2].min()
    assert floored[0, 2] < 0


@given(
    st.lists(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=4, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["group", "batch", "greedy"]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_floor_never_rewards_a_cut_off_rationale(rows: list[list[tuple[float, bool]]], kind: str, scale: bool) -> None:
    values = torch.tensor([[v for v, _ in row] for row in rows], dtype=torch.float64)
    cut = torch.tensor([[c for _, c in row] for row in rows])
    greedy = values.mean(dim=1) if kind == "greedy" else None
    ruled = apply_length_rule(values, cut, "floor", margin=1.0, baseline=greedy, batch_baseline=kind == "batch")
    if greedy is not None:
        assert (remax(ruled, greedy)[cut] < 0).all()
        return
    if kind == "batch":
        if not cut.all():
            assert (ruled - ruled.mean())[cut].lt(0).all()
        return
    advantage = grpo(ruled, scale=scale)
    for i in range(len(rows)):
        if cut[i].any() and not cut[i].all():
            assert advantage[i][cut[i]].max() < min(0.0, float(advantage[i][~cut[i]].min()))


def test_soft_overlong_falls_to_minus_one_at_the_limit() -> None:
    lengths = torch.tensor([[0.0, 60, 70, 80, 100, 120]])
    expected = torch.tensor([[0.0, 0, -0.25, -0.5, -1, -1]])
    torch.testing.assert_close(soft_overlong(lengths, limit=100, buffer=40), expected)
