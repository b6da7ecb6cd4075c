"""Workers with one thread each, that take parts of a batch as they get free.

One operation over two threads waits for the slower one at every step; on a machine that others use too, that is nearly
always. Parts of half a second each make use of whatever time either core has.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

Gradients = tuple[Tensor, ...]

# In what type matrices are multiplied. Without instructions for it, bfloat16 is emulated, far slower than float32.
PRODUCTS = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def fast_products() -> torch.autocast:
    """Matrix products in `PRODUCTS`, over float32 weights."""
    return torch.autocast("cpu", PRODUCTS, enabled=PRODUCTS is not torch.float32)


class Crew:
    """A few single-threaded workers."""

    def __init__(self, size: int) -> None:
        # Compiled code bakes in the number of threads it was compiled for.
        torch._inductor.config.cpp.threads = 1
        torch.set_num_threads(1)
        self.size = size
        self._pool = ThreadPoolExecutor(size, initializer=lambda: torch.set_num_threads(1))

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of the tasks, in their order."""
        return list(self._pool.map(lambda task: task(), tasks))


def set_gradients(parameters: Sequence[nn.Parameter], parts: Sequence[Gradients], scale: float = 1.0) -> None:
    """Give the parameters the sum of the parts' gradients, times `scale`."""
    for parameter, *gradients in zip(parameters, *parts, strict=True):
        total = gradients[0]
        for gradient in gradients[1:]:
            total = total + gradient
        parameter.grad = total * scale
