"""What each choice of pretraining is worth: the recipe, and the recipe with one thing changed, over the same tokens.

    python -m grace_training.tiny.choices --work .tiny --json docs/results/grace-tiny-choices.json

Needs the work folder of `tokenizer`. Every run reads as many tokens from the same beginning and is judged by the mean
loss, in nats a token, of the last rows of the corpus, which no run reads; also by that of the mean of the weights that
it had at `KEPT` points of its last fifth. So short a run says which choice learns faster at first, not which ends best.
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM

from grace_training.tiny import corpus, crew, model, muon
from grace_training.tiny.pretrain import LENGTH, PART_ROWS, ROWS

log = logging.getLogger(__name__)

JUDGED_ROWS = 240  # of LENGTH tokens
KEPT = 5  # weights whose mean is judged, too
LAST = 0.8  # share of the run after which they are kept
WARM_UP = 0.05


class Optimiser(Protocol):
    """One update from the gradients, at its rates times a factor."""

    def step(self, factor: float) -> None:
        """Update, and drop the gradients."""
        ...


class AdamW:
    """Adam for every weight, with decoupled decay: what Muon is compared with."""

    def __init__(self, network: nn.Module, rate: float) -> None:
        self._rate = rate
        self._adam = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.95), weight_decay=0.1)

    def step(self, factor: float) -> None:
        """Update with the learning rate times `factor`, then drop the gradients."""
        for group in self._adam.param_groups:
            group["lr"] = self._rate * factor
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)


def of_the_recipe(network: nn.Module, workers: crew.Crew) -> Optimiser:
    """Muon for the matrices and Adam for the rest, at the rates of `pretrain`."""
    return muon.Optimisers(network, workers, matrix_lr=0.02, other_lr=0.004, decay=0.01)


def trapezoid(progress: float) -> float:
    """That of `pretrain`, but for a longer warm-up: the run is short."""
    return model.trapezoid(progress, warm_up=WARM_UP, decay_from=0.4)


def constant(progress: float) -> float:
    """Learning-rate factor: linear up to 1, and no decay."""
    return min(1.0, max(progress / WARM_UP, 0.02))


def cosine(progress: float) -> float:
    """Learning-rate factor: linear up to 1, half a cosine down to 0."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.02)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))


@dataclass(frozen=True)
class Choice:
    """A run: the recipe, but for what is given."""

    optimiser: Callable[[nn.Module, crew.Crew], Optimiser] = of_the_recipe
    schedule: Callable[[float], float] = trapezoid
    tied: bool = True
    shuffled: bool = True
    seed: int = 0


CHOICES: dict[str, Choice] = {
    "recipe": Choice(),
    "another seed": Choice(seed=1),
    "AdamW, rate 0.001": Choice(lambda network, _: AdamW(network, 0.001)),
    "AdamW, rate 0.003": Choice(lambda network, _: AdamW(network, 0.003)),
    "AdamW, rate 0.006": Choice(lambda network, _: AdamW(network, 0.006)),
    "cosine": Choice(schedule=cosine),
    "constant rate": Choice(schedule=constant),
    "head of its own": Choice(tied=False),
    "rows in the corpus's order": Choice(shuffled=False),
}


def run(
    choice: Choice, marks: Tokenizer, read: NDArray[np.uint16], judged: NDArray[np.uint16], workers: crew.Crew
) -> dict[str, float]:
    """Train over rows [steps * ROWS, LENGTH + 1]; the losses of those to judge, and the seconds of the steps."""
    torch.manual_seed(choice.seed)
    network = model.build(marks, replace(model.NARROW, tied=choice.tied))
    optimiser = choice.optimiser(network, workers)
    rows = read.copy()
    if choice.shuffled:
        np.random.default_rng(choice.seed).shuffle(rows, axis=0)

    @torch.compile(dynamic=False)
    def loss_of(some: Tensor) -> Tensor:
        return next_token_loss(network, some)

    parameters = list(network.parameters())

    def part(some: Tensor) -> crew.Gradients:
        with crew.fast_products():  # entered inside what is compiled, it is compiled anew at every call
            loss = loss_of(some)
        return torch.autograd.grad(loss, parameters)

    batches = np.split(rows, len(rows) // ROWS)
    part_rows = workers.part_size(ROWS, PART_ROWS)
    part(crew.placed(batches[0][:part_rows].astype(np.int64)))  # compiled before it is timed
    kept: list[dict[str, Tensor]] = []
    points = np.linspace(LAST * len(batches), len(batches), KEPT).round()
    network.train()
    start = time.monotonic()
    for number, batch in enumerate(batches, 1):
        parts = torch.split(crew.placed(batch.astype(np.int64)), part_rows)
        gradients = workers.run([partial(part, some) for some in parts])
        crew.set_gradients(parameters, gradients, 1 / len(gradients))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step(choice.schedule((number - 1) / len(batches)))
        if number in points:
            kept.append({name: weight.clone() for name, weight in network.state_dict().items()})
    seconds = time.monotonic() - start
    last = judge(network, judged, workers)
    network.load_state_dict(model.average(*kept))
    return {"loss": last, "loss_of_mean": judge(network, judged, workers), "seconds": seconds}


def next_token_loss(network: Qwen2ForCausalLM, rows: Tensor) -> Tensor:
    """() mean next-token loss of rows [B, LENGTH + 1]."""
    logits = F.linear(model.states(network, rows[:, :-1]), network.lm_head.weight)
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def judge(network: Qwen2ForCausalLM, rows: NDArray[np.uint16], workers: crew.Crew) -> float:
    """Mean loss of rows [B, LENGTH + 1]."""
    network.eval()
    parts = torch.split(crew.placed(rows.astype(np.int64)), PART_ROWS)
    return float(np.mean(workers.run([partial(_judge, network, some) for some in parts])))


@torch.no_grad()  # a worker's thread knows nothing of the caller's
def _judge(network: Qwen2ForCausalLM, rows: Tensor) -> float:
    with crew.fast_products():
        return next_token_loss(network, rows).item()


def repeated(data: Path) -> dict[str, float]:
    """How many documents of the corpus are there already, and their share of its characters."""
    seen: set[str] = set()
    count = characters = again = again_characters = 0
    for text in corpus.documents(data):
        count, characters = count + 1, characters + len(text)
        if text in seen:
            again, again_characters = again + 1, again_characters + len(text)
        seen.add(text)
    return {"documents": count, "repeated": again, "share_of_characters": again_characters / characters}


def main() -> None:
    """Run them, and keep what is known after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="CHOICE", help=f"of {', '.join(CHOICES)}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    parser.add_argument("--steps", type=int, default=100, help=f"of {ROWS} rows of {LENGTH} tokens")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.device != "cpu":
        torch.set_default_device(options.device)
    if unknown := set(options.names) - set(CHOICES):
        parser.error(f"no such choice: {', '.join(sorted(unknown))}")
    marks = Tokenizer.from_file(str(options.work / "tokenizer.json"))
    tokens = np.load(options.work / "tokens.npy")
    index = np.arange(len(tokens) // LENGTH - 1)[:, None] * LENGTH + np.arange(LENGTH + 1)
    read, judged = tokens[index[: options.steps * ROWS]], tokens[index[-JUDGED_ROWS:]]
    workers = crew.Crew(2)
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": crew.device_name(),
        "tokens": read.shape[0] * LENGTH,
        "corpus": repeated(options.data),
        "choices": {},
    }
    for name in options.names or CHOICES:
        found["choices"][name] = run(CHOICES[name], marks, read, judged, workers)
        log.info("%s: %s", name, found["choices"][name])
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
