"""`grace-eval general`: whether the model still does what a language model does."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grace_training.evaluation.general_tasks import PAPER, TASKS, WRITTEN, Task, default_tasks, local_rows
from grace_training.evaluation.results import GENERAL, OWN, ROWS, Run, TaskRecord, read_run, write_items, write_run

if TYPE_CHECKING:
    from grace.checkpoint import Checkpoint
    from grace_training.evaluation.general_data import Row
    from grace_training.evaluation.general_lm import LanguageModel, Measured

T = TypeVar("T")

EPILOG = """\
tasks: gsm8k, mmlu, triviaqa, fever, bbh, humaneval (the paper's), nq_open; on local files also perplexity, rationales
and summaries, which tell something about models that are too small for the others.

local files (JSON lines, packed with gzip or xz or not; the name begins with the task's):
  gsm8k        question, answer ("... #### 42")        bbh         task, input, target
  mmlu         subject, question, choices, answer      humaneval   prompt, entry_point, canonical_solution, test
  triviaqa, nq_open   question, answer [texts]         fever       claim, label
  text         text, or plain lines: perplexity and rationales
  summaries    text, summary
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "general",
        help="general ability: GSM8K, MMLU, TriviaQA, FEVER, BBH, HumanEval; perplexity and summaries in miniature",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--model", default="grace-tiny", help="a folder, a hub id, or the bundled grace-tiny (default)")
    p.add_argument("--tasks", metavar="A,B", help=f"default {','.join(PAPER)}; with --data, those with a file there")
    p.add_argument("--data", type=Path, metavar="FOLDER", help="local files instead of the hub's data sets")
    p.add_argument("--out", type=Path, default=Path("results"), help="results folder (default results)")
    p.add_argument("--backend", choices=("vllm", "transformers"), default="vllm")
    p.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    p.add_argument("--limit", type=int, metavar="N", help="items per task, taken evenly; on the hub, per subtask")
    p.add_argument("--fewshot", type=int, metavar="N", help="examples in the prompt, where the task has them")
    p.add_argument("--max-tokens", type=int, metavar="N", help="longest answer (default the task's)")
    p.add_argument("--batch-size", type=int, default=8, help="of the transformers backend (default 8)")
    p.add_argument("--no-chat-template", action="store_true", help="plain text, also where the model has a template")
    p.add_argument(
        "--run-generated-code",
        action="store_true",
        help="allow HumanEval: what the model writes is run here, in a sandbox with limits",
    )
    p.add_argument("--overwrite", action="store_true", help="measure again what is there already")
    p.add_argument("--label", help="what tables call this model (default its name)")
    p.add_argument("--row", choices=ROWS, metavar="ROW", help=f"in tables: {', '.join(ROWS)} (default its card's)")
    p.add_argument("--backbone", help="the model it was trained from (default its card's)")
    p.add_argument("--seed", type=int, help="of the training (default its card's)")
    p.add_argument("--step", type=int, help="of the training (default its card's)")
    p.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task that is to be measured, with its rows if they are local."""

    task: Task
    rows: list[Row] | None
    of: int | None  # rows there would be

    @property
    def source(self) -> str:
        """What the rows are, so that a score over other rows is not taken for one over these."""
        if self.rows is None:
            return "hub"
        return hashlib.sha256(json.dumps(self.rows, sort_keys=True).encode()).hexdigest()[:12]


def run(options: argparse.Namespace) -> int:
    """Measure every task and write the results; 1 when a task failed."""
    from grace.checkpoint import Checkpoint
    from grace_training.errors import BadRecipe

    names = options.tasks.split(",") if options.tasks else default_tasks(options.data)
    if unknown := [name for name in names if name not in TASKS]:
        raise BadRecipe(f"--tasks: no task {', '.join(unknown)}; there are {', '.join(TASKS)}")
    for name in ("limit", "max_tokens", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise BadRecipe(f"--{name.replace('_', '-')} must be at least 1")
    if options.dtype == "float16" and (written := [name for name in names if name in WRITTEN]):
        raise BadRecipe(f"--dtype float16: the engine for {', '.join(written)} has float32 and bfloat16 alone")
    checkpoint = Checkpoint.load(options.model)
    session = Session(options, checkpoint, names)
    session.measure()
    session.report()
    return 1 if any(record.status == "failed" for record in session.run.tasks) else 0


class Session:
    """One run of the command: what was asked for, what is known by now. It is written down after every task."""

    def __init__(self, options: argparse.Namespace, checkpoint: Checkpoint, names: list[str]) -> None:
        self.options, self.checkpoint = options, checkpoint
        self.folder = _folder(options, checkpoint)
        path = self.folder / OWN / "general.json"
        fresh = _new_run(options, checkpoint, names)
        if path.exists() and not options.overwrite:
            known = read_run(path)
            fresh = replace(
                fresh,
                expected=tuple(dict.fromkeys((*known.expected, *names))),
                tasks=known.tasks,
                samples=known.samples,
                rationale_tokens=known.rationale_tokens,
                settings={**known.settings, **fresh.settings},
            )
        self.run = fresh
        self._names = names

    def measure(self) -> None:
        """Every task that is not done yet; one that fails is recorded and the next one begins."""
        found = [w for name in self._names if (w := self._find(TASKS[name]))]
        wanted = [w for w in found if not self._is_done(w)]
        if written := [w for w in wanted if w.task.name in WRITTEN]:
            self._written(written)
        if asked := [w for w in wanted if w.task.name not in WRITTEN]:
            self._asked(asked)
        write_run(self.run, self.folder, name="general.json")

    def report(self) -> None:
        """The figures, for a person."""
        for name in self.run.expected:
            record = self.run.record(name)
            if record is None:
                continue
            title = TASKS[name].title
            if record.score is None:
                print(f"{title:12} failed: {record.reason}")
            else:
                shown = f"{record.score:8.2f}" if record.metric == "perplexity" else f"{100 * record.score:8.2f}"
                print(f"{title:12} {shown}  {record.metric}, {record.samples} items")
        print(f"results: {self.folder / OWN / 'general.json'}")

    def _is_done(self, w: Wanted) -> bool:
        record = self.run.record(w.task.name)
        return record is not None and record.status == "done" and self._sources.get(w.task.name) == w.source

    @property
    def _sources(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.run.settings.get("rows", {})
        return found

    def _find(self, task: Task) -> Wanted | None:
        from grace.errors import GraceError
        from grace_training.errors import BadData

        if task.runs_code and not self.options.run_generated_code:
            self._cannot(task, "runs code that the model wrote: allow it with --run-generated-code")
            return None
        try:
            if self.options.data is None and not task.local_only:
                return Wanted(task, None, None)
            if self.options.data is None:
                raise BadData(f"{task.name} is measured on local files: give --data")
            return Wanted(task, *local_rows(task, self.options.data, self.options.limit))
        except GraceError as error:
            self._cannot(task, str(error))
            return None

    def _written(self, wanted: Sequence[Wanted]) -> None:
        from grace import Grace
        from grace_training.evaluation import general_written

        def one(grace: Grace, w: Wanted) -> Measured:
            rows = w.rows or []
            of, most = w.of or len(rows), self.options.max_tokens
            written = general_written.measure(grace, w.task, rows, of, max_tokens=most)
            others = (sample for sample in self.run.samples if sample.task != w.task.name)
            self.run = replace(self.run, samples=(*others, *written.samples), rationale_tokens=written.mean_tokens)
            return written.measured

        # `auto` is each engine's own default, float32 on a CPU, as for lm-eval's models.
        chosen = {} if self.options.dtype == "auto" else {"dtype": self.options.dtype}
        grace = self._opened(wanted, lambda: Grace.load(self.options.model, engine=self.options.backend, **chosen))
        if grace is None:
            return
        with grace:
            for w in wanted:
                self._try(w, partial(one, grace, w))
        gc.collect()  # the next engine wants its memory

    def _asked(self, wanted: Sequence[Wanted]) -> None:
        from grace_training.evaluation.general_lm import LanguageModel

        lm = self._opened(
            wanted,
            lambda: LanguageModel(
                self.checkpoint,
                self.options.backend,
                dtype=self.options.dtype,
                batch_size=self.options.batch_size,
                chat=False if self.options.no_chat_template else None,
                fewshot=self.options.fewshot,
                max_tokens=self.options.max_tokens,
            ),
        )
        if lm is None:
            return
        self._note(chat_template=lm.chat, context_tokens=lm.context_tokens, max_tokens=lm.max_tokens)
        for w in wanted:
            self._try(w, partial(self._one, lm, w))

    def _opened(self, wanted: Sequence[Wanted], load: Callable[[], T]) -> T | None:
        """What `load` gives; where it fails, every task that needs it has failed for that reason."""
        try:
            return load()
        except Exception as error:  # noqa: BLE001 - libraries of all kinds are behind it
            for w in wanted:
                self._failed(w.task, _reason(error))
            return None

    def _one(self, lm: LanguageModel, w: Wanted) -> Measured:
        if w.task.runs_code:
            from grace_training.evaluation import general_sandbox

            isolated = general_sandbox.check()
            self._note(generated_code="isolated" if isolated else "limited; network and files were within its reach")
        return lm.measure(w.task, w.rows, limit=self.options.limit, runs_code=w.task.runs_code)

    def _try(self, w: Wanted, measure: Callable[[], Measured]) -> None:
        task, start = w.task, time.monotonic()
        try:
            measured = measure()
        except Exception as error:  # noqa: BLE001 - whatever stops one task must not take the others along
            self._failed(task, _reason(error))
            return
        whole = w.of or measured.of
        record = TaskRecord(
            task.name,
            GENERAL,
            task.metric,
            "done",
            score=measured.score,
            samples=measured.judged,
            seconds=round(time.monotonic() - start, 2),
            subsampled_from=whole if whole > measured.judged else None,
        )
        write_items(measured.items, self.folder)
        self._note(rows={**self._sources, task.name: w.source})
        self._record(record)

    def _cannot(self, task: Task, reason: str) -> None:
        """A task that cannot be asked this time has failed, unless it was done before: nothing speaks against that."""
        record = self.run.record(task.name)
        if record is None or record.status != "done":
            self._failed(task, reason)
        else:
            print(f"grace-eval: {task.name}: kept as it was measured before; now: {reason}", file=sys.stderr)

    def _failed(self, task: Task, reason: str) -> None:
        self._record(TaskRecord(task.name, GENERAL, task.metric, "failed", reason=reason))

    def _record(self, record: TaskRecord) -> None:
        self.run = self.run.with_task(record)
        write_run(self.run, self.folder, name="general.json")
        done = f"{record.score:.4f}" if record.score is not None else f"failed: {record.reason}"
        print(f"grace-eval: {record.task}: {done}", file=sys.stderr)

    def _note(self, **settings: Any) -> None:
        self.run = replace(self.run, settings={**self.run.settings, **settings})


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def _new_run(options: argparse.Namespace, checkpoint: Checkpoint, names: list[str]) -> Run:
    from grace_training.evaluation.describe import describe

    settings = {name: getattr(options, name) for name in ("backend", "dtype", "fewshot", "limit")}
    settings["data"] = "hub" if options.data is None else "local files"
    # Nothing is represented here: which pooling a table shows beside it does not matter to what the model can do.
    known = describe(checkpoint, mode="direct", representation="direct", budget=None, label=options.label)
    said = {
        name: value for name in ("row", "backbone", "seed", "step") if (value := getattr(options, name)) is not None
    }
    return replace(known, representation=None, settings=settings, benchmark="general", expected=tuple(names), **said)


def _folder(options: argparse.Namespace, checkpoint: Checkpoint) -> Path:
    """Where this run's results go: beside those of mteb's tasks, apart from runs that were asked differently."""
    name = Path(options.model).resolve().name if Path(options.model).is_dir() else options.model
    owner = name.replace("/", "__") if "/" in name else f"local__{name}"
    parts = ["general", options.backend, options.dtype, "local" if options.data else "hub"]
    parts += [f"{key}{value}" for key in ("limit", "fewshot") if (value := getattr(options, key)) is not None]
    parts += [f"answers{options.max_tokens}"] if options.max_tokens else []
    parts += ["plain"] if options.no_chat_template else []
    variant = "-".join(parts)
    return Path(options.out) / "results" / owner / checkpoint.fingerprint[:12] / "experiments" / variant
