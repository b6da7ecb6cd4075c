"""First stage: plain language modelling on the open corpus.

`python -m grace_training.tiny.pretrain --minutes 46` trains for that much step time and may be stopped and called
again at any moment: it goes on from its last saved state.
"""

import argparse
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from grace_training.tiny import corpus, crew, model, muon

log = logging.getLogger(__name__)

LENGTH = 512  # tokens of a row
PARTS, PART_ROWS = 4, 3  # a step's batch: 12 rows, in parts that the workers share
SAVE_EVERY_S = 120.0


def batches(tokens: NDArray[np.uint16], seed: int, epoch: int, row: int) -> Iterator[tuple[Tensor, int, int]]:
    """Rows [B, LENGTH + 1] without end, from a place in the corpus on; with each batch the place after it."""
    size = PARTS * PART_ROWS
    while True:
        rows = corpus.pack(tokens, LENGTH, np.random.default_rng([seed, epoch, LENGTH]))
        while row + size <= len(rows):
            yield torch.from_numpy(rows[row : row + size].astype(np.int64)), epoch, row + size
            row += size
        epoch, row = epoch + 1, 0


def main() -> None:
    """Train, or go on training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--minutes", type=float, default=46.0, help="step time in all, resumed runs included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--matrix-lr", type=float, default=0.02)
    parser.add_argument("--other-lr", type=float, default=0.004)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    workers = crew.Crew(options.workers)
    torch.manual_seed(options.seed)

    tokenizer = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    tokens = np.load(options.work / "tokens.npy")
    network = model.build(tokenizer)
    optimisers = muon.Optimisers(network, matrix_lr=options.matrix_lr, other_lr=options.other_lr, decay=0.01)
    path = options.work / "pretrain.pt"
    step, seen, place, spent_s = 0, 0, [0, 0], 0.0
    if (state := model.load_state(path)) is not None:
        network.load_state_dict(state["model"])
        optimisers.load_state_dict(state["optimisers"])
        step, seen, place, spent_s = state["step"], state["tokens"], state["place"], state["spent_s"]
        log.info("going on from step %d", step)
    clock = model.Clock(options.minutes, spent_s)

    @torch.compile(dynamic=False)
    def loss_of(rows: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = F.linear(model.states(network, rows[:, :-1]), network.lm_head.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())

    parameters = list(network.parameters())

    def part(rows: Tensor) -> tuple[float, crew.Gradients]:
        loss = loss_of(rows)
        return loss.item(), torch.autograd.grad(loss, parameters)

    def save() -> None:
        saved = {"model": network.state_dict(), "optimisers": optimisers.state_dict(), "place": place}
        model.save_state(path, {**saved, "step": step, "tokens": seen, "spent_s": clock.spent_s})

    part(torch.zeros(PART_ROWS, LENGTH + 1, dtype=torch.int64))  # compiled once, before the workers need it
    stream = batches(tokens, options.seed, place[0], place[1])
    saved_at, mean = clock.spent_s, 0.0
    network.train()
    while clock.progress < 1.0:
        rows, *place = next(stream)
        clock.start()
        done = workers.run([partial(part, rows) for rows in torch.split(rows, PART_ROWS)])
        crew.set_gradients(parameters, [gradients for _, gradients in done], 1 / len(done))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimisers.step(model.trapezoid(clock.progress, warm_up=0.02, decay_from=0.4))
        value = sum(loss for loss, _ in done) / len(done)
        took = clock.stop()
        step, seen = step + 1, seen + rows[:, 1:].numel()
        mean = value if mean == 0.0 else 0.95 * mean + 0.05 * value
        if step % 20 == 0:
            log.info(
                "step %d, %.2f M tokens, loss %.3f, %.0f tokens/s, %.1f%%",
                *(step, seen / 1e6, mean, rows[:, 1:].numel() / took, 100 * clock.progress),
            )
        if clock.spent_s - saved_at > SAVE_EVERY_S:
            save()
            saved_at = clock.spent_s
    save()
    log.info("done: %d steps, %.2f M tokens, loss %.3f", step, seen / 1e6, mean)


if __name__ == "__main__":
    main()
