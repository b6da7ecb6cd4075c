"""Where the products of a step are worked out: by workers with one thread each, or on an accelerator.

On processors one operation over two threads waits for the slower one at every step; on a machine that others use too,
that is nearly always. Parts of half a second each make use of whatever time either core has. An accelerator takes the
batch whole.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

T = TypeVar("T")

Gradients = tuple[Tensor, ...]


def on_accelerator() -> bool:
    """Whether the stage was told to train on a GPU (`loop.begin` makes it the default device)."""
    return torch.get_default_device().type != "cpu"


def device_name() -> str:
    """What the stage trains on: `cpu`, or the GPU's name."""
    return torch.cuda.get_device_name() if on_accelerator() else "cpu"


def products() -> torch.dtype:
    """In what type matrices are multiplied: without instructions for it, bfloat16 is far slower than float32."""
    return torch.bfloat16 if on_accelerator() or torch.cpu._is_avx512_bf16_supported() else torch.float32


def fast_products() -> torch.autocast:
    """Matrix products in `products()`, over float32 weights."""
    return torch.autocast(torch.get_default_device().type, products(), enabled=products() is not torch.float32)


def placed(array: NDArray[np.generic]) -> Tensor:
    """The array as a tensor where the stage trains."""
    return torch.from_numpy(array).to(torch.get_default_device())


class Crew:
    """A few single-threaded workers; with an accelerator the caller alone, who only starts what it does."""

    def __init__(self, size: int) -> None:
        self.size = 1 if on_accelerator() else size
        self._pool: ThreadPoolExecutor | None = None
        if not on_accelerator():
            # Compiled code bakes in the number of threads it was compiled for.
            torch._inductor.config.cpp.threads = 1
            torch.set_num_threads(1)
            self._pool = ThreadPoolExecutor(size, initializer=lambda: torch.set_num_threads(1))

    def part_size(self, whole: int, part: int) -> int:
        """Rows that a worker takes at once: `part` of them, or the whole batch for an accelerator."""
        return whole if on_accelerator() else part

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """The results of the tasks, in their order."""
        if self._pool is None:
            return [task() for task in tasks]
        return list(self._pool.map(lambda task: task(), tasks))


def set_gradients(parameters: Sequence[nn.Parameter], parts: Sequence[Gradients], scale: float = 1.0) -> None:
    """Give the parameters the sum of the parts' gradients, times `scale`."""
    for parameter, *gradients in zip(parameters, *parts, strict=True):
        total = gradients[0]
        for gradient in gradients[1:]:
            total = total + gradient
        parameter.grad = total * scale
