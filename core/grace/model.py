"""The library's front door: load a model, encode texts. It holds no logic of its own."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
from tqdm.auto import tqdm

from grace.checkpoint import BUNDLED_NAME, Checkpoint
from grace.engines.base import Delta, Engine
from grace.errors import EngineDead, InvalidInput, check_one_of
from grace.pooling import POOLINGS, Pooling, check_dimensions, unit
from grace.prompt import Prompter
from grace.representation import Floats, Job, Mode, Representation, Role

T = TypeVar("T")
EngineName = Literal["vllm", "transformers"]
_CLOSED = "this Grace is closed"
_GOODBYE_S = 5.0
_IN_FLIGHT = 1024  # jobs handed to the engine at once: enough to keep it full, and memory bounded on a long corpus
_HANDFULS = 32  # in which these cross to its thread and back: one by one, a crossing costs as much as all the rest


class Grace:
    """A model that writes a rationale for a text and turns both into a vector.

    >>> with Grace.load() as grace:  # doctest: +SKIP
    ...     documents = grace.encode(["The harbour froze in 1432.", "Bread is baked at night."])
    ...     query = grace.encode("When did the harbour freeze?", role="query")
    ...     grace.similarity(query, documents)

    One engine runs in a thread of its own, so the methods may be called from any thread, and from async code through
    `prompter` and `engine`. Once it is closed they raise `EngineDead`, those too that were waiting for an answer.
    """

    def __init__(self, checkpoint: Checkpoint, prompter: Prompter, make_engine: Callable[[], Engine]) -> None:
        self.checkpoint, self.prompter = checkpoint, prompter
        # Taken again by who has it: a stream that is garbage is closed wherever Python happens to collect it.
        self._lock, self._closed = threading.RLock(), False
        self._awaited: set[Future[Any]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grace", daemon=True)
        self._thread.start()
        try:
            self.engine = make_engine()
            self._await(self.engine.start())
        except BaseException:
            self._stop()
            raise
        atexit.register(self.close)  # else vLLM's engine is killed at work, and says so over many lines

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = BUNDLED_NAME,
        *,
        engine: EngineName = "vllm",
        revision: str | None = None,
        max_context_tokens: int | None = None,
        **options: Any,
    ) -> Grace:
        """Load a checkpoint: a folder, a hub id, or by default the bundled model.

        `max_context_tokens` shortens the model's context, and with it the key-value cache that it needs: longer texts
        are cut.
        `options` are those of the engine: see `grace.engines.vllm.VllmOptions`, or `dtype` and `device` of
        `grace.engines.transformers.TransformersEngine`.

        Raises:
            CheckpointError: it is not there, or damaged.
            UnsupportedModel: it cannot be pooled exactly; the message says why.
        """
        checkpoint = Checkpoint.load(name_or_path, revision=revision, max_context_tokens=max_context_tokens)
        prompter = Prompter(checkpoint)

        def make() -> Engine:
            match engine:
                case "vllm":
                    from grace.engines.vllm import VllmEngine, VllmOptions

                    return VllmEngine(checkpoint, prompter, VllmOptions(**options))
                case "transformers":
                    from grace.engines.transformers import TransformersEngine

                    return TransformersEngine(checkpoint, prompter, **options)

        return cls(checkpoint, prompter, make)

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        role: Role = "document",
        mode: Mode = "reason",
        pooling: Pooling | None = None,
        dimensions: int | None = None,
        normalize: bool = True,
        max_rationale_tokens: int | None = None,
        temperature: float | None = None,
        truncate: bool = True,
        show_progress: bool | None = None,
    ) -> Floats:
        """Vectors of texts: (H,) for one text, (N, H) for a list, float32; the first `dimensions` of them if given.

        `pooling` is the checkpoint's unless said. `show_progress` is on for more than 100 texts unless said.

        Raises:
            InvalidInput: an option or a text cannot be served; `param` names which.
        """
        pooling = pooling or self.checkpoint.config.pooling
        check_one_of("pooling", pooling, POOLINGS)
        check_dimensions(dimensions, self.checkpoint.hidden_size)  # before anything is written
        single = isinstance(texts, str)
        answers = self._represent_each(
            [texts] if isinstance(texts, str) else texts,
            show_progress=show_progress,
            role=role,
            mode=mode,
            max_rationale_tokens=max_rationale_tokens,
            temperature=temperature,
            truncate=truncate,
        )
        # Pooled as they come: a corpus of sums would be many times the size of its vectors.
        vectors = [answer.vector(pooling, dimensions=dimensions, normalize=normalize) for answer in answers]
        if single:
            return vectors[0]
        return np.stack(vectors) if vectors else np.zeros((0, dimensions or self.checkpoint.hidden_size), np.float32)

    def represent(
        self,
        texts: Sequence[str],
        *,
        role: Role = "document",
        mode: Mode = "reason",
        rationales: Sequence[str | None] | None = None,
        max_rationale_tokens: int | None = None,
        temperature: float | None = None,
        truncate: bool = True,
        show_progress: bool | None = None,
    ) -> list[Representation]:
        """Rationales and segment sums of texts, in their order. A given rationale is pooled instead of written.

        Raises:
            InvalidInput: an option or a text cannot be served; `param` names which.
        """
        answers = self._represent_each(
            texts,
            rationales=rationales,
            show_progress=show_progress,
            role=role,
            mode=mode,
            max_rationale_tokens=max_rationale_tokens,
            temperature=temperature,
            truncate=truncate,
        )
        return list(answers)

    def run(self, jobs: Iterable[Job], *, in_flight: int = _IN_FLIGHT) -> Iterator[Representation]:
        """Representations of jobs, in their order; `in_flight` of them at most are asked for and held at a time.

        Leaving the iterator takes what is still in flight out of the engine.
        """
        rest = iter(jobs)
        first = list(itertools.islice(rest, in_flight))  # a bad one among them shows before any has cost something
        waiting, size = itertools.chain(first, rest), max(1, in_flight // _HANDFULS)
        pending: deque[Future[list[Representation | Exception]]] = deque()
        try:
            while handful := list(itertools.islice(waiting, size)):
                pending.append(self._submit(_together(self.engine, handful)))
                if (len(pending) + 1) * size > in_flight:
                    yield from _unless_failed(self._result(pending.popleft()))
            while pending:
                yield from _unless_failed(self._result(pending.popleft()))
        finally:
            for future in pending:
                future.cancel()

    def stream(self, text: str, **options: Any) -> Iterator[Delta | Representation]:
        """Pieces of one text's rationale as they are written, then its representation.

        `options` are those of `grace.prompt.Prompter.job`.
        """
        items = self.engine.stream(self.prompter.job(text, **options))
        try:
            while (item := self._await(_next(items))) is not None:
                yield item
        finally:
            if threading.current_thread() is self._thread:  # as garbage: here it would wait for itself
                leaving = self._loop.create_task(_close(items))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
            else:
                with suppress(EngineDead):  # closed meanwhile, and the stream with it
                    self._await(_close(items))

    def similarity(self, a: Floats, b: Floats) -> Floats:
        """(N, M) cosines of vectors (N, H) and (M, H); a single vector (H,) counts as one row.

        Raises:
            InvalidInput: the vectors differ in their dimensions.
        """
        rows, columns = np.atleast_2d(a), np.atleast_2d(b)
        if rows.shape[1] != columns.shape[1]:
            raise InvalidInput(
                f"vectors of {rows.shape[1]} and {columns.shape[1]} dimensions cannot be compared", param="dimensions"
            )
        return np.asarray(unit(rows) @ unit(columns).T, dtype=np.float32)

    def close(self) -> None:
        """Stop the engine and free its memory. Calling it twice does nothing the second time.

        What other threads are waiting for is withdrawn; they get `EngineDead`.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        atexit.unregister(self.close)
        for future in self._awaited.copy():
            future.cancel()
        try:
            asyncio.run_coroutine_threadsafe(_wind_up(self.engine), self._loop).result()
        finally:
            self._stop()

    def __enter__(self) -> Grace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _represent_each(
        self,
        texts: Sequence[str],
        *,
        rationales: Sequence[str | None] | None = None,
        show_progress: bool | None,
        **options: Any,
    ) -> Iterator[Representation]:
        if isinstance(texts, str):
            raise InvalidInput("texts is one string; put it into a list", param="texts")
        if rationales is not None and len(rationales) != len(texts):
            raise InvalidInput(f"{len(rationales)} rationales for {len(texts)} texts", param="rationales")
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InvalidInput(f"texts[{i}] is {type(text).__name__}, not a string", param="texts")
        given = rationales or [None] * len(texts)
        # Every text is checked before the first one costs anything, unless there are very many.
        jobs = (self.prompter.job(text, given=g, **options) for text, g in zip(texts, given, strict=True))
        hidden = not (len(texts) > 100 if show_progress is None else show_progress)
        with tqdm(total=len(texts), unit="text", disable=hidden) as bar:
            for answer in self.run(jobs):
                yield answer
                bar.update()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:  # what is submitted is there to be withdrawn when it is closed: nothing slips in between
            if self._closed:
                work.close()
                raise EngineDead(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._awaited.add(future)
        future.add_done_callback(self._awaited.discard)
        return future

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._submit(work)
        try:
            return self._result(future)
        except BaseException:
            future.cancel()  # an interrupted caller must not leave the engine at work
            raise

    def _result(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            if self._closed:
                raise EngineDead(_CLOSED) from None
            raise

    def _stop(self) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_the_rest(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _together(engine: Engine, jobs: Sequence[Job]) -> list[Representation | Exception]:
    """The answers in their order. An error is the last: nothing after it is waited for, or run any longer."""
    tasks = [asyncio.create_task(engine.represent(job)) for job in jobs]
    answers: list[Representation | Exception] = []
    try:
        for task in tasks:
            answers.append(await task)
    except Exception as error:  # noqa: BLE001 - raised where its answer would have been
        answers.append(error)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return answers


def _unless_failed(answers: list[Representation | Exception]) -> Iterator[Representation]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        yield answer


async def _wind_up(engine: Engine) -> None:
    """Let what was withdrawn end while there is an engine to tell of it, then close that."""
    withdrawn = [task for task in asyncio.all_tasks() if task.cancelling()]
    with suppress(TimeoutError):  # an engine that hangs cannot be told, only ended
        async with asyncio.timeout(_GOODBYE_S):
            await asyncio.gather(*withdrawn, return_exceptions=True)
            await asyncio.get_running_loop().shutdown_asyncgens()  # streams that nobody reads to their end
    await engine.close()


async def _cancel_the_rest() -> None:
    """End whatever still runs, so that nothing waits for a loop that has stopped."""
    if rest := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in rest:
            if not task.cancelling():  # else it is clearing up, and would leave off
                task.cancel()
        await asyncio.wait(rest, timeout=_GOODBYE_S)


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


async def _close(items: AsyncIterator[Any]) -> None:
    if (close := getattr(items, "aclose", None)) is not None:
        await close()
