"""What benchmarks share: a random model of about 100 M parameters, interleaved rounds, and figures as JSON.

Speed and exactness do not depend on weights being trained. Arms are run in turns within one process and compared by
medians, since machines are noisy: a ratio of neighbours says more than two runs an hour apart.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

WORDS = """
    river harbour market bridge mason winter grain council letter debt engine orbit theory enzyme treaty garden
    archive glacier merchant violin parliament current species journal copper lantern
""".split()  # noqa: SIM905 - a list of strings would be ten lines


def arguments(description: str, **defaults: Any) -> argparse.Namespace:
    """`--json PATH`, and one integer option per default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the figures there")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser.parse_args()


def report(figures: dict[str, Any], path: Path | None) -> None:
    """Print the figures, and write them if asked to."""
    for name, value in figures.items():
        print(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value}")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n")


def median_ratio(a: list[float], b: list[float]) -> float:
    """Median over rounds of a/b: each round compares neighbours in time."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def model_100m() -> AbstractContextManager[Path]:
    """A random Qwen2 of about 100 M parameters with GRACE's prompt, in a folder that is gone afterwards."""
    return _model(hidden=768, layers=10, intermediate=2560, vocab=32_000)


def model_of_no_size() -> AbstractContextManager[Path]:
    """The same in tiny: what a process takes around a model."""
    return _model(hidden=64, layers=1, intermediate=64, vocab=None)


@contextmanager
def _model(**shape: Any) -> Iterator[Path]:
    from grace.checkpoint import CheckpointConfig
    from tests.support.models import make_model

    config = CheckpointConfig(
        instruction={"document": "Say what the document says.", "query": "Say what the query asks."},
        max_input_tokens=512,
        max_rationale_tokens=64,
    )
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), config=config, tied=True, context=1024, **shape)
        yield Path(folder)


def texts(count: int, *, seed: int = 0, shortest: int = 5, longest: int = 40) -> list[str]:
    """Different texts of `shortest` to `longest` words each."""
    rng = random.Random(seed)
    return [
        f"{i}. " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(shortest, longest))) + "."
        for i in range(count)
    ]
