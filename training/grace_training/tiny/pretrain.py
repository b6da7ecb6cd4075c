"""First stage: plain language modelling on the open corpus.

`python -m grace_training.tiny.pretrain --minutes 46` trains for that much step time and may be stopped and called
again at any moment: it goes on from its last saved state. With `--device cuda` take more `--rows`.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from grace_training.tiny import corpus, crew, loop, model, muon

LENGTH = 512  # tokens of a row
ROWS, PART_ROWS = 12, 3  # a step's batch, and the parts of it that the workers share


class Reading:
    """A place in the corpus, which comes in another order each epoch."""

    def __init__(self, tokens: NDArray[np.uint16], seed: int) -> None:
        self._tokens = tokens
        self._seed = seed
        self._rows: NDArray[np.uint16] | None = None
        self._epoch = self._row = 0
        self.read = 0  # tokens, in all

    def next_rows(self, size: int) -> Tensor:
        """The next rows [size, LENGTH + 1]; what is left of an epoch that holds no more so many is passed over."""
        while self._rows is None or self._row + size > len(self._rows):
            if self._rows is not None:
                self._epoch, self._row = self._epoch + 1, 0
            self._rows = corpus.pack(self._tokens, LENGTH, np.random.default_rng([self._seed, self._epoch, LENGTH]))
        rows = self._rows[self._row : self._row + size]
        self._row += size
        self.read += size * LENGTH
        return crew.placed(rows.astype(np.int64))

    def state_dict(self) -> dict[str, int]:
        """The place."""
        return {"epoch": self._epoch, "row": self._row, "read": self.read}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved place."""
        self._epoch, self._row, self.read, self._rows = state["epoch"], state["row"], state["read"], None


def main() -> None:
    """Train, or go on training."""
    parser = loop.parser(__doc__, minutes=75.0, rates=(0.02, 0.004))
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of {LENGTH} tokens, in a step")
    options = loop.begin(parser)
    workers = crew.Crew(options.workers)

    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    reading = Reading(np.load(options.work / "tokens.npy"), options.seed)
    network = model.build(marks, model.NARROW)
    optimisers = muon.Optimisers(network, workers, matrix_lr=options.matrix_lr, other_lr=options.other_lr, decay=0.01)

    @torch.compile(dynamic=False)
    def loss_of(rows: Tensor) -> Tensor:
        logits = F.linear(model.states(network, rows[:, :-1]), network.lm_head.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    parameters = list(network.parameters())

    def part(rows: Tensor) -> tuple[float, crew.Gradients]:
        with crew.fast_products():  # entered inside what is compiled, it is compiled anew at every call
            loss = loss_of(rows)
        return loss.item(), torch.autograd.grad(loss, parameters)

    def step(_: int, progress: float) -> dict[str, float]:
        rows = reading.next_rows(options.rows)  # in the corpus's order, whatever the step's number
        done = workers.run([partial(part, some) for some in torch.split(rows, part_rows)])
        crew.set_gradients(parameters, [gradients for _, gradients in done], 1 / len(done))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimisers.step(model.trapezoid(progress, warm_up=0.02, decay_from=0.4))
        return {"loss": sum(loss for loss, _ in done) / len(done), "million tokens": reading.read / 1e6}

    part_rows = workers.part_size(options.rows, PART_ROWS)
    part(torch.zeros(part_rows, LENGTH + 1, dtype=torch.int64))  # compiled once, before the workers need it
    network.train()
    parts = {"model": network, "optimisers": optimisers, "reading": reading}
    loop.train(options.work / "pretrain.pt", parts, options.minutes, step)


if __name__ == "__main__":
    main()
