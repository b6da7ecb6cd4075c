"""From the command line to models: the options that `mteb` and `local` share, and the variants they ask for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace.checkpoint import BUNDLED_NAME
from grace_training.errors import BadRecipe
from grace_training.evaluation.results import REPRESENTATIONS, ROWS, Counts, RepresentationName, Run

if TYPE_CHECKING:
    from grace import Checkpoint, Grace
    from grace.pooling import Pooling
    from grace_training.evaluation.embedding import Options
    from grace_training.evaluation.representations import Shelf

PEERS = "st:NAME, mteb:NAME, openai:MODEL@URL, echo:NAME, tfidf, tfidf-svd, bm25"
BUDGETS = (16, 32, 64, 128, 256)


def add_model_arguments(p: argparse.ArgumentParser) -> None:
    """The model, how it is read, and where results go."""
    model = p.add_argument_group("model")
    add = model.add_argument
    add("--model", default=BUNDLED_NAME, help="a GRACE checkpoint or base model: folder, hub id, or the bundled one")
    add("--peer", action="append", default=[], metavar="KIND[:NAME]", help=f"instead: {PEERS}; repeatable")
    add("--engine", choices=["vllm", "transformers"], default="vllm")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    add("--max-num-seqs", type=int, help="texts in one step of vLLM")
    add("--representations", type=_names, metavar="NAME,...", help=f"of {', '.join(REPRESENTATIONS)}; or all")
    add("--budgets", type=_numbers, metavar="N,...", help=f"rationale tokens; all is {', '.join(map(str, BUDGETS))}")
    add("--temperature", type=float, default=0.0, help="0 is greedy")
    out = p.add_argument_group("results")
    add = out.add_argument
    add("--out", type=Path, default=Path("results"), help="results folder (%(default)s)")
    add("--cache", type=Path, help="where representations are kept (OUT/representations)")
    add("--overwrite", action="store_true", help="score again what is there; representations are kept")
    add("--label", help="what tables call the model")
    add("--row", choices=ROWS, help="its row in the tables; this and the next three are read from its card unless said")
    add("--backbone", help="the model it was trained from")
    add("--seed", type=int, help="of the training")
    add("--step", type=int, help="of the training")
    add(
        "--training-data",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="mark tasks that share its texts",
    )
    add("--shard", type=_shard, metavar="I/N", help="only embed this share of the texts, for a run without --shard")
    add("--dry-run", action="store_true", help="say what there is to embed and how long it takes, and stop")
    add("--no-report", action="store_true", help="leave OUT/report.html as it is")
    add("--quiet", action="store_true", help="no progress bars")


@dataclass(frozen=True, slots=True)
class Variant:
    """A model in one form, and the run it is to fill."""

    run: Run
    model: Any  # of mteb's protocols
    embedder: Any | None = None  # an Embedder; None for a peer

    def counts(self) -> Counts | None:
        """What its embedder was asked for so far; None for a peer."""
        if self.embedder is None:
            return None
        counts: Counts = self.embedder.counts(self.run.representation)
        return counts


@contextmanager
def open_variants(options: argparse.Namespace) -> Iterator[list[Variant]]:
    """Every variant that was asked for: peers, or each representation under each budget; engines open when needed."""
    with ExitStack() as stack:
        yield _peers(options) if options.peer else _variants(options, stack)


def measured(variant: Variant, run: Run) -> Run:
    """A variant's run with speed, rationale lengths, texts the mean stood in for, samples for case studies."""
    embedder = variant.embedder
    if embedder is None:
        return run
    tally = embedder.tally
    if tally.texts and embedder.options.written_at is None:  # what is cut from longer rationales was not written
        run = replace(run, texts_per_s=round(tally.texts / tally.seconds, 3))
    run = _counted(run)
    if embedder.budget is not None and variant.model.firsts:
        samples = [embedder.sample(text, role, task) for (task, role), text in variant.model.firsts.items()]
        run = replace(run, samples=tuple({(s.role, s.text): s for s in (*run.samples, *samples)}.values()))
    return run


def _counted(run: Run) -> Run:
    """A run with the counts of all its tasks, whichever process scored them.

    Tasks in a file from before counts were kept have none. Where some have and some not, the figures over all are not
    known, and left out; where none has, those of the file stay.
    """
    counts = [record.counts for record in run.tasks if record.status == "done"]
    known = [count for count in counts if count is not None]
    if counts and not known:
        return run
    settings = {name: value for name, value in run.settings.items() if name != "stood_in"}
    run, total = replace(run, settings=settings, rationale_tokens=None), sum(known, Counts())
    if len(known) < len(counts) or not total.asked:
        return run
    mean = None if run.budget is None else round(total.rationale_tokens / total.asked, 2)
    return replace(run, settings={**settings, "stood_in": total.stood_in}, rationale_tokens=mean)


def _peers(options: argparse.Namespace) -> list[Variant]:
    from grace_training.evaluation.describe import machine, now, versions
    from grace_training.evaluation.peers import open_peer

    if options.shard or options.representations or options.budgets:
        raise BadRecipe("--shard, --representations and --budgets belong to GRACE checkpoints, not to --peer")
    variants = []
    for spec in options.peer:
        model = open_peer(spec)
        run = Run(
            label=options.label or spec.partition(":")[2].rpartition("/")[2] or spec,
            row=options.row or "peer",
            model=spec,
            fingerprint="",
            representation=None,
            budget=None,
            machine=machine(),
            versions=versions(),
            started_at=now(),
        )
        variants.append(Variant(run, model))
    return variants


def _variants(options: argparse.Namespace, stack: ExitStack) -> list[Variant]:
    from grace import Checkpoint
    from grace.prompt import Prompter
    from grace_training.evaluation.describe import describe
    from grace_training.evaluation.embedding import Embedder, Shard
    from grace_training.evaluation.mteb_model import GraceEncoder, model_meta, model_name

    checkpoint = Checkpoint.load(options.model)
    prompter = Prompter(checkpoint)
    baseline = checkpoint.config.provenance.get("method") in ("contrastive", "simcse")
    default: RepresentationName = "direct" if baseline else checkpoint.config.pooling
    names: Sequence[RepresentationName] = options.representations or (default,)
    shelf = _shelf(checkpoint, names, options, stack)
    engine = _engine(options, stack)
    variants = []
    for how in _readings(names, options, prompter.max_rationale_tokens):
        embedder = Embedder(
            checkpoint,
            prompter,
            engine,
            shelf,
            how,
            shard=Shard(*options.shard) if options.shard else None,
            show_progress=not options.quiet,
        )
        for name in names:
            meta = model_meta(
                model_name(options.model),
                revision=checkpoint.fingerprint[:12],
                experiment=_experiment(name, default, how.budget, options),
                checkpoint=checkpoint,
            )
            run = describe(
                checkpoint,
                mode=how.mode,
                representation=name,
                budget=embedder.budget,
                label=options.label,
                row=options.row,
                settings={"engine": options.engine, "dtype": options.dtype, "temperature": options.temperature},
            )
            said = {key: said for key in ("backbone", "seed", "step") if (said := getattr(options, key)) is not None}
            variants.append(Variant(replace(run, **said), GraceEncoder(embedder, name, meta), embedder))
    return variants


def _readings(names: Sequence[RepresentationName], options: argparse.Namespace, room: int) -> list[Options]:
    """How texts are read: once, or once per budget, all but the largest cut from its rationales."""
    from grace_training.evaluation.embedding import Options

    if tuple(names) == ("direct",):
        if options.budgets:
            raise BadRecipe("--budgets are of rationales, which `direct` alone does not write")
        return [Options(mode="direct")]
    budgets = sorted(options.budgets or (), reverse=True)  # the largest first: from its rationales the others are cut
    if over := [budget for budget in budgets if budget > room]:
        raise BadRecipe(f"--budgets {over[0]} is over the {room} tokens that this model has room for")
    if not budgets:
        return [Options(temperature=options.temperature)]
    return [
        Options(budget=budget, temperature=options.temperature, written_at=budgets[0] if budget < budgets[0] else None)
        for budget in budgets
    ]


def _shelf(
    checkpoint: Checkpoint, names: Sequence[RepresentationName], options: argparse.Namespace, stack: ExitStack
) -> Shelf:
    from grace_training.evaluation.embedding import pooling_of
    from grace_training.evaluation.representations import Shelf

    # Alone, `direct` is the mean over all that is pooled: of an empty text that is the template.
    poolings: list[Pooling] = ["mean"] if tuple(names) == ("direct",) else sorted({pooling_of(name) for name in names})
    folder = (options.cache or options.out / "representations") / checkpoint.fingerprint
    name = "-".join([options.engine, options.dtype, *poolings])
    return stack.enter_context(Shelf(folder / name, poolings=poolings, hidden=checkpoint.hidden_size))


def _engine(options: argparse.Namespace, stack: ExitStack) -> Callable[[], Grace]:
    """The engine, opened when it is first asked for; with a full shelf it never is."""

    @cache
    def engine() -> Grace:
        from grace import Grace

        print(f"grace-eval: starting {options.engine} with {options.model}", file=sys.stderr)
        limits = {"max_num_seqs": options.max_num_seqs} if options.max_num_seqs else {}
        return stack.enter_context(Grace.load(options.model, engine=options.engine, dtype=options.dtype, **limits))

    return engine


def _experiment(
    name: RepresentationName, default: RepresentationName, budget: int | None, options: argparse.Namespace
) -> dict[str, Any]:
    """How a variant differs from the checkpoint's default; mteb keeps differing ones apart."""
    chosen: dict[str, Any] = {}
    if name != default:
        chosen["representation"] = name
    if budget is not None:
        chosen["budget"] = budget
    if options.temperature:
        chosen["temperature"] = options.temperature
    if options.engine != "vllm":
        chosen["engine"] = options.engine
    if options.dtype != "auto":
        chosen["dtype"] = options.dtype
    return chosen


def _names(value: str) -> tuple[RepresentationName, ...]:
    names = REPRESENTATIONS if value == "all" else tuple(dict.fromkeys(value.split(",")))
    if unknown := [name for name in names if name not in REPRESENTATIONS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(REPRESENTATIONS)}")
    return names  # type: ignore[return-value]


def _numbers(value: str) -> tuple[int, ...]:
    numbers = BUDGETS if value == "all" else tuple(sorted({int(part) for part in value.split(",")}))
    if numbers[0] < 1:
        raise argparse.ArgumentTypeError("a budget is at least 1 token")
    return numbers


def _shard(value: str) -> tuple[int, int]:
    number, _, of = value.partition("/")
    if not (number.isdigit() and of.isdigit() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{value!r} is not I/N with I in 1..N")
    return int(number) - 1, int(of)
