"""The norm that vLLM has for a CPU is the norm of its Python, where it is used and where it is not."""

from __future__ import annotations

import pytest
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.layernorm import RMSNorm

import grace.engines.vllm_worker  # noqa: F401  switches the kernels on, as in an engine
from grace.engines.vllm_cpu import HostRMSNorm


@pytest.fixture(params=[48, 24], ids=["in the kernel", "of a width it does not take"])
def norm(request: pytest.FixtureRequest) -> HostRMSNorm:
    with set_current_vllm_config(VllmConfig()):
        made = RMSNorm(request.param, eps=1e-5, dtype=torch.float32)
    assert isinstance(made, HostRMSNorm), "vLLM makes its own"
    made.weight.data.uniform_(0.5, 2.0)
    return made


@pytest.mark.parametrize("rows", [1, 3, 64, 1000])
def test_rows_are_normed(norm: HostRMSNorm, rows: int) -> None:
    x = torch.randn(rows, norm.hidden_size) * 10
    kept = x.clone()
    expected = torch.nn.functional.rms_norm(x.double(), (norm.hidden_size,), norm.weight.double(), 1e-5)
    torch.testing.assert_close(normed(norm, x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("rows", [1, 3, 64, 1000])
def test_a_residual_is_added_first(norm: HostRMSNorm, rows: int) -> None:
    x, residual = torch.randn(2, rows, norm.hidden_size)
    total = x + residual
    expected = torch.nn.functional.rms_norm(total.double(), (norm.hidden_size,), norm.weight.double(), 1e-5)
    rows_of_it, added = norm.forward_cpu(x, residual)
    torch.testing.assert_close(rows_of_it.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(added, total)


def test_heads_within_rows_are_normed(norm: HostRMSNorm) -> None:
    whole = torch.randn(5, 3 * norm.hidden_size)
    heads = whole[:, : 2 * norm.hidden_size].view(5, 2, norm.hidden_size)
    for x in (heads, whole[:, norm.hidden_size : 2 * norm.hidden_size]):  # neither lies in one piece
        expected = torch.nn.functional.rms_norm(x.double(), (norm.hidden_size,), norm.weight.double(), 1e-5)
        torch.testing.assert_close(normed(norm, x), expected, rtol=1e-5, atol=1e-5)


def normed(norm: HostRMSNorm, x: torch.Tensor) -> torch.Tensor:
    rows = norm.forward_cpu(x)
    assert isinstance(rows, torch.Tensor)
    return rows.double()
