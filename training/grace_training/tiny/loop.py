"""The loop that every stage runs: go on from where it was, step until the time is spent, log, save.

A stage brings what it trains, how a step's batch is drawn, and one step; the learning rate follows the time that was
spent, so that its decay always completes. A batch is drawn by the step's number, so that a resumed run sees what an
unbroken one would, and so that readers may draw ahead.
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from grace_training.tiny import crew, model

log = logging.getLogger(__name__)

SAVE_EVERY_S = 120.0
LOG_EVERY = 20  # steps
REMEMBERED = 0.9  # of a logged mean at each new value

WAIT_HELP = "read the data now, and begin once the stage before is over"

AHEAD = 4  # batches that a reader keeps ready
READER_TIMEOUT_S = 300

T = TypeVar("T")

Draw = Callable[[int], T]  # number of the step -> its batch, in plain values and tensors on the processor
Step = Callable[[T, float], Mapping[str, float]]  # batch, share of the time spent -> losses by name


class Stateful(Protocol):
    """What can be saved and gone on with: a module, an optimiser, a place in a corpus."""

    def state_dict(self) -> Any:
        """Its state, in tensors and plain values."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Take a saved state on."""
        ...


def parser(
    description: str | None, *, minutes: float, rates: tuple[float, float] | None = None
) -> argparse.ArgumentParser:
    """The options that stages share; with `rates`, those of the two optimisers, the crew's size too."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--data", type=Path, default=Path("../shared/data"))
    made.add_argument("--work", type=Path, default=Path(".tiny"))
    made.add_argument("--minutes", type=float, default=minutes, help="step time in all, resumed runs included")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--readers", type=int, default=0, help="processes that draw batches ahead")
    made.add_argument("--wait", action="store_true", help=WAIT_HELP)
    if rates:
        made.add_argument("--workers", type=int, default=2)
        made.add_argument("--device", default="cpu", help="`cuda`: on a GPU, which takes a batch whole")
        made.add_argument("--larger", type=int, default=1, help="batches this many times as large")
        made.add_argument("--matrix-lr", type=float, default=rates[0])
        made.add_argument("--other-lr", type=float, default=rates[1])
    return made


def begin(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line; from here on the stage logs, and draws from its seed."""
    chosen = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(chosen.seed)
    if getattr(chosen, "device", "cpu") != "cpu":
        torch.set_default_device(chosen.device)
    return chosen


def forget(losses_path: Path, *, after: int) -> None:
    """Drop what was logged after this step: a run that was stopped makes those steps again."""
    if losses_path.exists():
        lines = losses_path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= after]
        losses_path.write_text("".join(kept), encoding="utf-8")


def the_number(number: int) -> int:
    """The batch of a step that draws for itself."""
    return number


class _Drawn(Dataset[T]):
    def __init__(self, draw: Draw[T]) -> None:
        self._draw = draw

    def __getitem__(self, number: int) -> T:
        return self._draw(number)


def _as_it_is(batch: T) -> T:
    return batch


def _on_processor(_: int) -> None:
    torch.set_default_device("cpu")  # a forked process cannot use the GPU of its parent


def drawn(draw: Draw[T], number: int, readers: int) -> Iterator[T]:
    """The batches from this step on; `readers` processes draw some ahead, or none do."""
    if not readers:
        while True:
            yield draw(number)
            number += 1
    yield from DataLoader(
        _Drawn(draw),
        batch_size=None,
        collate_fn=_as_it_is,
        sampler=range(number, number + 10**9),
        num_workers=readers,
        prefetch_factor=AHEAD,
        timeout=READER_TIMEOUT_S,  # a batch that cannot be sent is never given up otherwise
        worker_init_fn=_on_processor,
        multiprocessing_context="fork",  # what is drawn from is large, and a closure
    )


def train(
    path: Path,
    parts: Mapping[str, Stateful],
    minutes: float,
    step: Step[Any],
    *,
    draw: Draw[Any] = the_number,
    readers: int = 0,
) -> None:
    """Step until `minutes` of step time are spent, those of earlier runs included.

    The state is kept in `path`, and what is logged beside it, as JSON lines.
    """
    number, spent_s = 0, 0.0
    if (state := model.load_state(path)) is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        number, spent_s = state["step"], state["spent_s"]
        log.info("going on from step %d", number)
    losses_path = path.with_suffix(".jsonl")
    forget(losses_path, after=number)
    clock = model.Clock(minutes, spent_s)

    def save() -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        told = {"step": number, "spent_s": clock.spent_s, "over": clock.progress >= 1.0, "device": crew.device_name()}
        model.save_state(path, {**states, **told})

    saved_at = clock.spent_s
    means: dict[str, float] = {}
    batches = drawn(draw, number, readers)
    while clock.progress < 1.0:
        clock.start()
        losses = step(next(batches), clock.progress)
        took = clock.stop()
        number += 1
        for name, value in losses.items():
            means[name] = REMEMBERED * means.get(name, value) + (1 - REMEMBERED) * value
        if number % LOG_EVERY == 0:
            shown = ", ".join(f"{name} {value:.2f}" for name, value in sorted(means.items()))
            log.info("step %d, %.1f%%, %.1f s: %s", number, 100 * clock.progress, took, shown)
            with losses_path.open("a", encoding="utf-8") as stream:
                row = {"step": number, "minutes": round(clock.spent_s / 60, 2)}
                stream.write(json.dumps(row | {name: round(value, 4) for name, value in means.items()}) + "\n")
        if clock.spent_s - saved_at > SAVE_EVERY_S:
            save()
            saved_at = clock.spent_s
    save()
    log.info("done: %d steps", number)
