"""From texts to embeddings: jobs are made, sent on their way together, and pooled. Both embedding routes end here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grace.errors import InvalidInput
from grace.pooling import Floats, Pooling, combine
from grace.prompt import LONG_TEXT_CHARS
from grace.representation import Job, Mode, Rationale, Representation, Role
from grace_server import logs, tracing
from grace_server.errors import InvalidValue, TooLarge, renamed
from grace_server.house import House

Result = TypeVar("Result")
_MANY = 32  # representations; with wide states and shares, one can take a millisecond


@dataclass(frozen=True, slots=True)
class Options:
    """What a request asks for, the same for each of its texts."""

    role: Role = "document"
    mode: Mode = "reason"
    pooling: Pooling | None = None  # None: the checkpoint's
    max_rationale_tokens: int | None = None
    temperature: float | None = None
    n: int = 1
    dimensions: int | None = None
    normalize: bool = True
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class Embedded:
    """One text, embedded: its n jobs, what they came to, and the vector of them all."""

    jobs: tuple[Job, ...]
    representations: tuple[Representation, ...]
    pooling: Pooling
    vector: Floats
    consistency: float | None

    @property
    def rationale(self) -> Rationale | None:
        """The rationale shown: the first of n."""
        return self.representations[0].rationale

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt; n rationales share it."""
        return self.representations[0].prompt_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens sampled for all n rationales."""
        return sum(r.completion_tokens for r in self.representations)

    @property
    def cached(self) -> bool:
        """Whether nothing of it had to be computed."""
        return all(r.cached for r in self.representations)


async def embed(
    house: House, texts: Sequence[str], options: Options, rationales: Sequence[str] | None = None
) -> list[Embedded]:
    """Embed all texts of a request. They fail together: a caller never has to look for holes.

    Raises:
        TooLarge, Overloaded: there is no room for all of them.
        InvalidInput: an option cannot be served with one of the texts; `param` says with which.
    """
    jobs = await make_jobs(house, texts, options, rationales)
    flat = [job for group in jobs for job in group]
    found = await house.front.represent_all(flat) if len(flat) > 1 else [await house.front.represent(flat[0])]
    embedded = await aside(len(found), lambda: pool_all(house, jobs, found, options))
    note(house, embedded)
    return embedded


async def aside(representations: int, work: Callable[[], Result]) -> Result:
    """What `work` on so many representations comes to. Others wait for the event loop, so many are done on a thread."""
    return await asyncio.to_thread(work) if representations > _MANY else work()


async def make_jobs(
    house: House, texts: Sequence[str], options: Options, rationales: Sequence[str] | None
) -> list[tuple[Job, ...]]:
    """Make n jobs per text, checked as far as they can be before anything is generated."""
    _check(house, texts, options, rationales)
    given: Sequence[str | None] = rationales or [None] * len(texts)

    def make() -> list[tuple[Job, ...]]:
        made = []
        for at, (text, written) in enumerate(zip(texts, given, strict=True)):
            try:
                made.append(tuple(_job(house, text, written, sample, options) for sample in range(options.n)))
            except InvalidInput as error:
                if error.param in ("input", "rationale"):
                    raise renamed(error, _place(error.param, at, texts)) from error
                raise
        return made

    size = sum(map(len, texts)) + sum(len(written or "") for written in given)
    jobs = await asyncio.to_thread(make) if size * options.n > LONG_TEXT_CHARS else make()
    if (pooling := _pooling(house, options)) in ("input", "rationale"):
        for at, group in enumerate(jobs):
            given_ids = group[0].given.token_ids if group[0].given else None
            field, empty = (
                ("input", not group[0].input_tokens) if pooling == "input" else ("rationale", given_ids == ())
            )
            if empty:
                place = _place(field, at, texts)
                raise InvalidValue(f"{place} is empty: pooling {pooling!r} has no token to pool in it", param=place)
    return jobs


def pool_all(
    house: House, jobs: Sequence[tuple[Job, ...]], found: Sequence[Representation], options: Options
) -> list[Embedded]:
    """The vectors of a request; `found` holds n representations for each text, one text after the other.

    Raises:
        InvalidValue: the model wrote nothing for a text whose rationale is to be pooled.
    """
    pooling, embedded = _pooling(house, options), []
    with house.metrics.pool_seconds.time(), tracing.span("pool", {"grace.inputs": len(jobs)}):
        for at, group in enumerate(jobs):
            try:
                embedded.append(_pool(pooling, group, tuple(found[at * options.n : (at + 1) * options.n]), options))
            except InvalidInput as error:
                if error.param != "pooling":
                    raise
                place = _place("input", at, jobs)
                why = f"{place} got an empty rationale: pooling {pooling!r} has no token to pool in it"
                raise InvalidValue(why, param=place) from error
    return embedded


def _pool(
    pooling: Pooling, jobs: tuple[Job, ...], representations: tuple[Representation, ...], options: Options
) -> Embedded:
    """One vector of n representations: of unit vectors the mean, so that every rationale weighs the same."""
    if options.n == 1:
        vector = representations[0].vector(pooling, dimensions=options.dimensions, normalize=options.normalize)
        return Embedded(jobs, representations, pooling, vector, None)
    vectors = [r.vector(pooling, dimensions=options.dimensions) for r in representations]
    vector, consistency = combine(vectors, normalize=options.normalize)
    return Embedded(jobs, representations, pooling, vector, consistency)


def note(house: House, embedded: Sequence[Embedded]) -> None:
    """Count what a request came to, for the metrics and for its log line."""
    truncated = sum(e.jobs[0].truncated for e in embedded)
    if truncated:
        house.metrics.truncations.inc(truncated)
    if (record := logs.current.get()) is None:
        return
    record.inputs += len(embedded)
    record.truncated += truncated
    record.cached += sum(e.cached for e in embedded)
    record.prompt_tokens += sum(e.prompt_tokens for e in embedded)
    record.completion_tokens += sum(e.completion_tokens for e in embedded)
    if house.settings.log_texts:
        record.texts += [
            {"text": e.jobs[0].text, "rationale": e.rationale.text if e.rationale else None} for e in embedded
        ]


def _job(house: House, text: str, written: str | None, sample: int, options: Options) -> Job:
    return house.prompter.job(
        text,
        role=options.role,
        mode=options.mode,
        max_rationale_tokens=options.max_rationale_tokens,
        temperature=options.temperature,
        sample=sample,
        given=written,
        truncate=options.truncate,
    )


def _place(field: str, at: int, texts: Sequence[object]) -> str:
    """Which of a request's texts is at fault: that of one text needs no place."""
    return f"{field}[{at}]" if len(texts) > 1 else field


def _pooling(house: House, options: Options) -> Pooling:
    return options.pooling or house.checkpoint.config.pooling


def _check(house: House, texts: Sequence[str], options: Options, rationales: Sequence[str] | None) -> None:
    settings, hidden = house.settings, house.checkpoint.hidden_size
    if len(texts) > settings.max_inputs:
        raise TooLarge(f"input has {len(texts)} texts, the limit is {settings.max_inputs} (max_inputs)", param="input")
    for field, several in (("input", texts), ("rationale", rationales or ())):
        for at, text in enumerate(several):
            if len(text) > settings.max_input_chars:
                place = _place(field, at, several)
                raise TooLarge(
                    f"{place} has {len(text)} characters, the limit is {settings.max_input_chars} (max_input_chars)",
                    param=place,
                )
    if options.dimensions is not None and options.dimensions > hidden:
        raise InvalidValue(f"dimensions must lie in 1..{hidden}, got {options.dimensions}", param="dimensions")
    if _pooling(house, options) == "rationale" and options.mode == "direct":
        raise InvalidValue("pooling 'rationale' needs a rationale, which mode 'direct' does not write", param="pooling")
    if _pooling(house, options) == "rationale" and rationales is None and options.max_rationale_tokens == 1:
        raise InvalidValue(
            "pooling 'rationale' needs max_rationale_tokens of at least 2: the last token of a rationale has no state",
            param="max_rationale_tokens",
        )
    if options.n > 1:
        _check_samples(house, options, rationales)


def _check_samples(house: House, options: Options, rationales: Sequence[str] | None) -> None:
    limit, temperature = house.settings.max_samples, options.temperature
    if options.n > limit:
        raise InvalidValue(f"n must lie in 1..{limit} (max_samples), got {options.n}", param="n")
    if options.mode == "direct" or rationales is not None:
        raise InvalidValue("n > 1 needs rationales that are written here: mode 'reason', none given", param="n")
    if (house.checkpoint.config.generation.temperature if temperature is None else temperature) == 0:
        raise InvalidValue("n > 1 needs a temperature above 0: greedy rationales are all the same", param="temperature")
