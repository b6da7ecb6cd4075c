"""Kernels that vLLM has for a CPU and does not use there. Importing this, before a model is made, switches them on.

Read and run in vLLM 0.32 on x86. On other versions and machines norms stay as they are wherever the kernel is missing.
"""

from __future__ import annotations

import torch
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

_ROW = 16  # numbers that the kernel of the norm takes at a time

# There is an attention kernel for blocks of 16 tokens; it is taken when they are of that size, but it is not listed.
_listed = CPUAttentionBackend.get_supported_kernel_block_sizes
CPUAttentionBackend.get_supported_kernel_block_sizes = staticmethod(lambda *spec: [*_listed(*spec), 16])


@RMSNorm.register_oot(name="RMSNorm")  # vLLM's way of bringing a layer of one's own
class HostRMSNorm(RMSNorm):
    """The norm in one kernel, instead of six tensor operations: a fifteenth of a small model's step."""

    def forward_cpu(
        self,
        x: torch.Tensor,  # (T, H)
        residual: torch.Tensor | None = None,  # (T, H), added first
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The normed rows, and with a residual also the sum. Both may be in place, as in vLLM's own."""
        if not self._fits(x) or (residual is not None and not self._fits(residual)):
            return self.forward_native(x, residual)  # type: ignore[no-any-return]
        if residual is not None:
            torch.ops._C.fused_add_rms_norm(x, residual, self.weight, self.variance_epsilon)
            return x, residual
        normed = torch.empty_like(x)
        torch.ops._C.rms_norm(normed, x, self.weight, self.variance_epsilon)
        return normed

    def _fits(self, x: torch.Tensor) -> bool:
        return bool(
            x.dim() == 2
            and x.is_contiguous()
            and x.shape[1] % _ROW == 0
            and self.has_weight
            and x.dtype == self.weight.dtype == torch.float32  # in others it rounds once more than vLLM's own
            and self.variance_size_override is None
            and hasattr(torch.ops._C, "fused_add_rms_norm")
        )
