"""`python -m grace_server.sizing plan | queue`: a table for a page, from your own figures."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from grace_server.sizing.plan import Corpus, Held, Measured, Plan, Wanted, plan, whole
from grace_server.sizing.simulation import Load, Service, simulate


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; exit code 2 if a figure cannot be."""
    arguments = parser().parse_args(argv)
    try:
        sys.stdout.writelines(f"{line}\n" for line in arguments.run(arguments))
    except ValueError as error:
        sys.stderr.write(f"sizing: {error}\n")
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Both commands and their figures."""
    found = argparse.ArgumentParser("python -m grace_server.sizing", description=__doc__)
    commands = found.add_subparsers(required=True, metavar="COMMAND")
    sizes = commands.add_parser("plan", help="machines for a corpus, a column per size")
    sizes.set_defaults(run=_plan)
    sizes.add_argument("--documents", type=float, nargs="+", default=[1e6, 1e8, 1e10])
    _numbers(
        sizes,
        tokens_per_s=(None, "that one engine gets through when busy, prompts and rationales together: measure it"),
        writes_per_s=(10_000, "documents that the writer of an index commits"),
        search_ms=(3.8, "of a core, for one query over --search-rows rows"),
        search_rows=(1e6, "rows at which that was measured"),
        engine_cost_per_h=(0, "of the machine share that one engine takes"),
        tokens_per_document=(200, ""),
        rationale_tokens=(64, "0: mode direct"),
        instruction_tokens=(0, "of the prompt that the prefix cache does not save"),
        segments=(8, "of a document whose sums are kept"),
        days=(7, "until the corpus is embedded"),
        queries_per_s=(10, ""),
        query_tokens=(100, "of a query's prompt and rationale"),
        memory_gib=(256, "of a machine with an index"),
        disk_gib=(4000, "of a machine with an index"),
        cores=(16, "of a machine with an index"),
        dimensions=(384, ""),
    )
    sizes.add_argument("--sums-bytes", type=int, choices=(4, 2, 0), default=4, help="float32, float16, none kept")
    sizes.add_argument("--held", choices=get_args(Held), default="ivf", help="what of the vectors is in memory")
    queue = commands.add_parser("queue", help="simulate the queue, a row per number of engines")
    queue.set_defaults(run=_queue)
    queue.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    _numbers(
        queue,
        tokens_per_s=(None, "of one engine with a full batch: measure it"),
        text_tokens_per_s=(None, "of one text in an engine by itself: measure it"),
        texts_per_s=(None, "that arrive"),
        tokens=(264, "of a text on average"),
        burst=(1, "texts that arrive together on average"),
        max_running_requests=(256, "per engine"),
        max_running_tokens=(262_144, "per engine"),
        max_queued_requests=(4096, ""),
        max_queued_tokens=(8_388_608, ""),
        queue_timeout_s=(60, ""),
        deadline_s=(math.inf, ""),
        texts=(100_000, "to simulate; a tenth more comes first and is not counted"),
        seed=(0, ""),
    )
    return found


def _numbers(command: argparse.ArgumentParser, **figures: tuple[float | None, str]) -> None:
    for name, (default, meaning) in figures.items():
        flag = "--" + name.replace("_", "-")
        words = meaning if default is None else f"{meaning} [{default:g}]".strip()
        command.add_argument(flag, type=float, default=default, required=default is None, help=words)


def _plan(arguments: argparse.Namespace) -> list[str]:
    a = arguments
    corpus = Corpus(
        0, a.tokens_per_document, a.rationale_tokens, a.instruction_tokens, int(a.dimensions), a.segments,
        a.sums_bytes, a.held,
    )  # fmt: skip
    measured = Measured(a.tokens_per_s, a.writes_per_s, a.search_ms, a.search_rows, a.engine_cost_per_h)
    wanted = Wanted(a.days, a.queries_per_s, a.query_tokens, a.memory_gib, a.disk_gib, int(a.cores))
    plans = [plan(replace(corpus, documents=documents), measured, wanted) for documents in a.documents]
    rows = [("documents", *(_round(d) for d in a.documents))]
    rows += [(label, *(show(p) for p in plans)) for label, show in _ROWS.items()]
    return _table(rows)


_ROWS: dict[str, Callable[[Plan], str]] = {
    "one engine would take, days": lambda p: _round(p.engine_days),
    "engines for the corpus": lambda p: _round(whole(p.to_embed)),
    "cost of embedding": lambda p: _round(p.cost),
    "engines for the queries": lambda p: _round(whole(p.to_serve)),
    "disk, GiB": lambda p: _round(p.disk_gib),
    "memory during a rebuild, GiB": lambda p: _round(p.memory_gib),
    "one writer would take, days": lambda p: _round(p.write_days),
    "indexes, for memory / disk / writing / search": lambda p: " / ".join(
        _round(whole(share)) for share in (p.for_memory, p.for_disk, p.for_writes, p.for_search)
    ),
    "indexes, a machine each": lambda p: _round(p.indexes),
    "what decides": lambda p: p.bottleneck,
}


def _queue(arguments: argparse.Namespace) -> list[str]:
    a = arguments
    for name in ("tokens_per_s", "text_tokens_per_s", "texts_per_s", "tokens", "texts"):
        if getattr(a, name) <= 0:
            raise ValueError(f"{name} must be above 0, got {getattr(a, name):g}")
    rows: list[tuple[str, ...]] = [
        ("engines", "asked of them", "p50 s", "p99 s", "in the queue s", "refused", "given up")
    ]
    warm_up = int(a.texts / 10)
    for replicas in a.replicas:
        service = Service(
            replicas, a.tokens_per_s, a.text_tokens_per_s, a.max_running_requests, a.max_running_tokens,
            a.max_queued_requests, a.max_queued_tokens, a.queue_timeout_s, a.deadline_s,
        )  # fmt: skip
        load = Load(a.texts_per_s, a.tokens, a.burst, int(a.seed))
        found = simulate(service, load, texts=int(a.texts) + warm_up, warm_up=warm_up)
        asked = a.texts_per_s * a.tokens / (replicas * a.tokens_per_s)
        shares = (found.refused / a.texts, found.timed_out / a.texts)
        rows.append(
            (str(replicas), f"{asked:.0%}", *map(_round, (found.p50_s, found.p99_s, found.mean_wait_s)),
             *(f"{share:.2%}" for share in shares))
        )  # fmt: skip
    return _table(rows)


def _round(value: float) -> str:
    """Three figures at most, with commas: a plan is no more exact than that."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, 2 - math.floor(math.log10(abs(value))))
    return f"{rounded:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{rounded:,.0f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return [f"| {' | '.join(line)} |" for line in lines]


if __name__ == "__main__":
    sys.exit(main())
