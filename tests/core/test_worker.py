"""The worker promises to tell a model whose states are normed from one that norms them only for its logits."""

from __future__ import annotations

import pytest
import torch

from grace.engines.vllm_worker import length_matters

HEAD = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


def head(state: torch.Tensor) -> torch.Tensor:
    return state @ HEAD.T


def capped_head(state: torch.Tensor) -> torch.Tensor:
    return 30 * torch.tanh(head(state) / 30)


def norm_then_head(state: torch.Tensor) -> torch.Tensor:
    return head(torch.nn.functional.rms_norm(state, (8,), eps=1e-6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("compute_logits", "normed"), [(head, True), (capped_head, True), (norm_then_head, False)])
def test_a_norm_inside_compute_logits_is_found(compute_logits, normed, dtype) -> None:  # type: ignore[no-untyped-def]
    state = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert length_matters(lambda s: compute_logits(s.float()).to(dtype), state) is normed


def test_a_rank_without_logits_has_no_say() -> None:
    assert length_matters(lambda _: None, torch.ones(1, 8))
