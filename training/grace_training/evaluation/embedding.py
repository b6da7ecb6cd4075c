"""Texts to vectors for an evaluation: one pass per text through the engine, everything else from the shelf.

From the one pass come all representations: `direct` is `input` under another name, since a causal model's states of a
text do not depend on what is written after it. They also come for smaller budgets: a greedy rationale under a budget of
16 is the beginning of the one under 256, so it is cut, and pooled in a pass that writes nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from grace import Checkpoint, Grace
from grace import rationale as rationales
from grace.pooling import Pooling
from grace.prompt import Prompter
from grace.representation import Floats, Job, Mode, Representation, Role
from grace_training.errors import BadRecipe
from grace_training.evaluation.representations import Shelf, key_of
from grace_training.evaluation.results import Counts, RepresentationName, Sample

_WINDOW = 512  # texts looked up on the shelf at once
_IN_MEMORY = 2**28  # bytes of vectors handed out in memory; more are handed out as a file


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of the model."""

    mode: Mode = "reason"
    budget: int | None = None  # most rationale tokens; None: the checkpoint's
    temperature: float = 0.0
    written_at: int | None = None  # a larger budget, from whose rationales these are cut


@dataclass
class Tally:
    """What a run cost so far."""

    texts: int = 0  # embedded by the engine
    seconds: float = 0.0
    asked: int = 0  # texts asked for, those on the shelf included
    rationale_tokens: int = 0  # of the texts asked for
    # By representation, texts that had no token of it: the mean stands in.
    stood_in: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of all texts that this machine embeds: those whose prompt falls to `number` of `of`.

    Budgets do not count, unlike in a key of the shelf: where a rationale is cut, the longer one must have been written.
    """

    number: int = 0
    of: int = 1

    def __contains__(self, job: Job) -> bool:
        digest = hashlib.blake2b(np.asarray(job.prompt_ids, np.uint32).tobytes(), digest_size=8).digest()
        return int.from_bytes(digest) % self.of == self.number


def pooling_of(name: RepresentationName) -> Pooling:
    """The pooling a representation is read from."""
    return "input" if name == "direct" else name


class Embedder:
    """Embeds texts with one checkpoint under some options.

    The engine is opened when the first text is not on the shelf, and belongs to whoever passed `open_engine`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        prompter: Prompter,
        open_engine: Callable[[], Grace],
        shelf: Shelf,
        options: Options | None = None,
        *,
        shard: Shard | None = None,
        show_progress: bool = True,
    ) -> None:
        self.checkpoint, self.prompter, self.shelf = checkpoint, prompter, shelf
        self.options, self.shard, self.tally = options or Options(), shard or Shard(), Tally()
        self.open_engine, self._show = open_engine, show_progress
        budget, written_at = self.budget, self.options.written_at
        if written_at is not None and (self.options.temperature or self.options.mode == "direct"):
            raise BadRecipe("rationales are cut to smaller budgets only where they are written, and greedily")
        self._longer: Embedder | None = None
        if written_at is not None and budget is not None and written_at > budget:
            self._longer = Embedder(
                checkpoint,
                prompter,
                open_engine,
                shelf,
                replace(self.options, budget=written_at, written_at=None),
                shard=shard,
                show_progress=show_progress,
            )

    @property
    def budget(self) -> int | None:
        """Most rationale tokens; None where nothing is written."""
        if self.options.mode == "direct":
            return None
        return self.options.budget or self.prompter.default_rationale_tokens

    def job(self, text: str, role: Role) -> Job:
        """What the engine is asked for."""
        return self.prompter.job(
            text,
            role=role,
            mode=self.options.mode,
            max_rationale_tokens=self.budget,
            temperature=self.options.temperature,
        )

    def vectors(self, texts: Iterable[str], role: Role, representation: RepresentationName) -> Floats:
        """(N, H) unit vectors of texts in their order: an array, or a file mapped into memory when it is large.

        Raises:
            ValueError: a text belongs to another shard, and nobody has embedded it yet.
        """
        pooling = self._pooling(representation)
        places = self.places(texts, role)
        out = _space(len(places), self.shelf.hidden, self.shelf.folder)
        self.shelf.vectors(places, pooling, out)
        _, tokens, stood_in = self.shelf.counts(places)
        self.tally.asked += len(places)
        self.tally.rationale_tokens += int(tokens.sum())
        self.tally.stood_in[representation] += int((stood_in >> self.shelf.poolings.index(pooling) & 1).sum())
        return out

    def counts(self, representation: RepresentationName) -> Counts:
        """What was asked for so far, and how often the mean stood in for one representation."""
        return Counts(self.tally.asked, self.tally.rationale_tokens, self.tally.stood_in[representation])

    def places(self, texts: Iterable[str], role: Role) -> npt.NDArray[np.int64]:
        """(N, 2) places of texts on the shelf, after all that were missing have been embedded.

        Those of another shard are left to it: -1 where it has not embedded them yet.
        """
        keys: list[bytes] = []
        if self._longer is not None:
            texts = list(texts)
            longer = self._longer.places(texts, role)
            jobs = self._cut(texts, role, longer, keys)
        else:
            jobs = ((key, job) for key, job in self._numbered(texts, role, keys) if key is not None)
        with tqdm(unit="text", disable=not self._show, leave=False, desc=f"embedding {role}") as bar:
            try:
                if (first := next(jobs, None)) is not None:
                    engine = self.open_engine()
                    started = time.perf_counter()
                    # The key travels beside its job: answers come in the order of the jobs.
                    keyed, plain = itertools.tee(itertools.chain([first], jobs))
                    for (key, job), answer in zip(keyed, engine.run(job for _, job in plain), strict=True):
                        self._keep(key, job, answer)
                        bar.update()
                        self.tally.texts += 1
                    self.tally.seconds += time.perf_counter() - started
            finally:
                self.shelf.flush()
        return self.shelf.find(keys)

    def sample(self, text: str, role: Role, task: str = "") -> Sample:
        """A text with its rationale, from the shelf."""
        place = self.places([text], role)[0]
        ids = self.shelf.rationale_ids(place)
        return Sample(role, text, self.prompter.decode(tuple(ids)), len(ids), task)

    def _pooling(self, representation: RepresentationName) -> Pooling:
        pooling: Pooling = "mean" if self.options.mode == "direct" else pooling_of(representation)
        if pooling not in self.shelf.poolings:
            raise BadRecipe(f"this shelf keeps {', '.join(self.shelf.poolings)}, not {pooling}")
        return pooling

    def _cut(
        self, texts: Sequence[str], role: Role, longer: npt.NDArray[np.int64], keys: list[bytes]
    ) -> Iterator[tuple[bytes, Job]]:
        """Jobs that pool the beginnings of rationales on the shelf; a rationale short enough is copied."""
        budget = self.budget or 0
        for (key, job), place in zip(self._numbered(texts, role, keys), longer, strict=True):
            if key is None:
                continue
            ids = self.shelf.rationale_ids(place)
            if len(ids) < budget:
                vectors = np.zeros((len(self.shelf.poolings), self.shelf.hidden), np.float32)
                for i, pooling in enumerate(self.shelf.poolings):
                    self.shelf.vectors(place[None], pooling, vectors[i : i + 1])
                stood_in = int(self.shelf.counts(place[None])[2][0])
                self.shelf.add(key, vectors, input_tokens=job.input_tokens, rationale_ids=ids, stood_in=stood_in)
            else:
                yield key, cut(job, ids, budget, self.prompter)

    def _numbered(self, texts: Iterable[str], role: Role, keys: list[bytes]) -> Iterator[tuple[bytes | None, Job]]:
        """Each text's job, with its key where this shard has to embed it: of equal texts the first."""
        asked: set[bytes] = set()
        for window in _windows(texts, _WINDOW):
            jobs = [self.job(text, role) for text in window]
            names = [key_of(job) for job in jobs]
            keys += names
            found = self.shelf.find(names)[:, 0] >= 0
            for key, job, here in zip(names, jobs, found, strict=True):
                yield (None if here or key in asked or job not in self.shard else key), job
                asked.add(key)

    def _keep(self, key: bytes, job: Job, answer: Representation) -> None:
        vectors = np.zeros((len(self.shelf.poolings), self.shelf.hidden), np.float32)
        stood_in = 0
        for i, pooling in enumerate(self.shelf.poolings):
            if not _has_tokens(answer, pooling):
                stood_in |= 1 << i
            vectors[i] = answer.vector("mean" if stood_in >> i & 1 else pooling)
        ids = answer.rationale.token_ids if answer.rationale else ()
        self.shelf.add(key, vectors, input_tokens=answer.input_tokens, rationale_ids=ids, stood_in=stood_in)


def cut(job: Job, ids: Sequence[int], budget: int, prompter: Prompter) -> Job:
    """A job that writes nothing and pools what `job` under `budget` would: the rationale's first `budget` tokens.

    The last of them is not pooled: where it is sampled, it never goes through the model.
    """
    kept = tuple(ids[:budget])
    written = rationales.read(prompter.decode(kept), kept, "given", thinking_open=job.thinking_open)
    pooled = len(kept) - 1
    segments = prompter.rationale_segments(written, pooled=pooled)
    return replace(
        job,
        prompt_ids=(*job.prompt_ids, *kept[:pooled]),
        segments=(*job.segments, *segments),
        max_new_tokens=0,
        given=written,
    )


def _has_tokens(answer: Representation, pooling: Pooling) -> bool:
    return pooling in ("mean", "last") or any(s.source == pooling and s.tokens for s in answer.segments)


def _windows(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(texts)
    while window := list(itertools.islice(rest, size)):
        yield window


def _space(count: int, hidden: int, folder: Path) -> Floats:
    """(count, hidden) float32 to be filled: on disk when it is large, in a file that has lost its name."""
    if count * hidden * 4 <= _IN_MEMORY:
        return np.zeros((count, hidden), np.float32)
    with tempfile.NamedTemporaryFile(prefix=".vectors-", dir=folder) as file:
        return np.memmap(file.name, np.float32, mode="w+", shape=(count, hidden))
