"""`Grace` promises the habits of sentence-transformers, on either engine, with the same numbers."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grace import (
    Checkpoint,
    CheckpointError,
    EngineDead,
    EngineError,
    Grace,
    InputTooLong,
    InvalidInput,
    Representation,
    UnsupportedModel,
)
from grace.engines.fake import FakeEngine
from grace.model import _cancel_the_rest
from grace.prompt import Prompter
from grace.representation import Job
from tests.conftest import ModelFolder
from tests.support.models import SENTENCES, make_model

TEXTS = [SENTENCES[i : i + 40] for i in range(0, 120, 10)]


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def grace(request: pytest.FixtureRequest, model_folder: ModelFolder, quick_starts: None) -> Iterator[Grace]:
    with Grace.load(model_folder("qwen2"), engine=request.param, dtype="float32") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(model_folder: ModelFolder) -> Iterator[np.ndarray]:
    with Grace.load(model_folder("qwen2"), engine="transformers", dtype="float32") as reference:
        yield reference.encode(TEXTS)


def test_vectors_come_in_the_order_of_the_texts_at_length_one(grace: Grace, expected: np.ndarray) -> None:
    vectors = grace.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_one_text_gives_one_vector_and_no_text_gives_none(grace: Grace) -> None:
    assert grace.encode(TEXTS[0]).shape == (64,)
    assert grace.encode([]).shape == (0, 64)
    assert grace.encode(TEXTS[:2], dimensions=16).shape == (2, 16)


def test_what_is_no_option_is_refused_before_anything_runs(grace: Grace) -> None:
    for param, ask in {
        "pooling": lambda: grace.encode(TEXTS, pooling="avg"),  # type: ignore[arg-type]
        "mode": lambda: grace.encode(TEXTS, mode="Reason"),  # type: ignore[arg-type]
        "role": lambda: grace.represent(TEXTS, role="doc"),  # type: ignore[arg-type]
        "texts": lambda: grace.represent("one text"),
        "dimensions": lambda: grace.encode([], dimensions=65),
    }.items():
        with pytest.raises(InvalidInput) as caught:
            ask()
        assert caught.value.param == param


def test_similarity_is_the_cosine(grace: Grace) -> None:
    vectors = grace.encode(TEXTS[:3], normalize=False)
    table = grace.similarity(vectors[0], vectors)
    assert table.shape == (1, 3)
    assert table[0, 0] == pytest.approx(1)
    with pytest.raises(InvalidInput):
        grace.similarity(vectors, vectors[:, :5])


def test_similarity_of_halves_and_of_whole_numbers_is_the_cosine_too(grace: Grace) -> None:
    vectors = np.array([[300, 400], [400, 300]])
    for dtype in (np.float16, np.int16, np.float64):
        np.testing.assert_allclose(grace.similarity(vectors.astype(dtype)[0], vectors.astype(dtype)), [[1, 0.96]])


def test_a_stream_ends_with_the_representation_and_may_be_left_early(grace: Grace) -> None:
    *pieces, last = grace.stream(TEXTS[0])
    assert isinstance(last, Representation)
    assert all(isinstance(piece, str) for piece in pieces)
    leaving = grace.stream(TEXTS[1])
    next(leaving)
    leaving.close()
    assert grace.encode(TEXTS[0]).shape == (64,)


def test_given_rationales_are_pooled_and_not_written(grace: Grace) -> None:
    one, other = grace.represent(TEXTS[:2], rationales=["<think>a</think>b", None])
    assert one.rationale is not None
    assert (one.rationale.text, one.rationale.finish_reason, one.completion_tokens) == ("<think>a</think>b", "given", 0)
    assert other.completion_tokens > 0
    with pytest.raises(InvalidInput, match="1 rationales for 2 texts"):
        grace.represent(TEXTS[:2], rationales=["x"])


def test_bad_input_is_named_and_harms_nothing(grace: Grace) -> None:
    with pytest.raises(InputTooLong):
        grace.encode(["fine", "word " * 5000], truncate=False)
    with pytest.raises(InvalidInput, match=r"texts\[1\] is int"):
        grace.encode(["fine", 3])  # type: ignore[list-item]
    assert grace.encode("fine").shape == (64,)


def test_threads_may_share_it(grace: Grace, expected: np.ndarray) -> None:
    results: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: grace.encode(TEXTS[i])})) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.keys() == set(range(6))
    for i, vector in results.items():
        np.testing.assert_allclose(vector, expected[i], atol=1e-4)


def test_a_closed_one_says_so(model_folder: ModelFolder) -> None:
    grace = Grace.load(model_folder("qwen2"), engine="transformers")
    grace.close()
    grace.close()
    with pytest.raises(EngineDead):
        grace.encode("too late")


@pytest.fixture
def faked(model_folder: ModelFolder) -> Iterator[tuple[Grace, FakeEngine]]:
    """A `Grace` whose engine takes half a minute for a text."""
    checkpoint = Checkpoint.load(model_folder("qwen2"))
    prompter = Prompter(checkpoint)
    engine = FakeEngine(prompter, seconds_per_text=30)
    grace = Grace(checkpoint, prompter, lambda: engine)
    yield grace, engine
    grace.close()


def outcome_of(ask: Callable[[], object], outcomes: list[BaseException | object]) -> threading.Thread:
    """A thread that asks, and keeps what came of it."""

    def run() -> None:
        try:
            outcomes.append(ask())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what the test looks at
            outcomes.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_closing_ends_what_other_threads_wait_for(faked: tuple[Grace, FakeEngine]) -> None:
    grace, engine = faked
    outcomes: list[BaseException | object] = []
    asks: list[Callable[[], object]] = [
        lambda: grace.encode("one text"),
        lambda: grace.represent([f"text {i}" for i in range(3)]),
        lambda: list(grace.stream("a streamed text")),
    ]
    threads = [outcome_of(ask, outcomes) for ask in asks]
    until(lambda: engine.calls == 5)
    tasks = asyncio.all_tasks(grace._loop)
    grace.close()
    for thread in threads:
        thread.join(5)
    assert [str(outcome) for outcome in outcomes] == ["this Grace is closed"] * 3
    assert {type(outcome) for outcome in outcomes} == {EngineDead}
    assert engine.cancelled == 5
    assert all(task.done() for task in tasks)


class Watched(FakeEngine):
    """A fake engine that numbers what it answers, and counts what it is asked for at a time."""

    fails_at, slow_after, most = -1, 10_000, 0

    async def represent(self, job: Job) -> Representation:
        number = int(job.text.split()[-1])
        if number == self.fails_at:
            raise EngineError("this one fails")
        self._seconds = 30.0 if number > self.slow_after else 0.002
        self.held = getattr(self, "held", 0) + 1
        self.most = max(self.most, self.held)
        try:
            return replace(await super().represent(job), input_tokens=number)
        finally:
            self.held -= 1


@pytest.fixture
def watched(model_folder: ModelFolder) -> Iterator[tuple[Grace, Watched]]:
    checkpoint = Checkpoint.load(model_folder("qwen2"))
    prompter = Prompter(checkpoint)
    engine = Watched(prompter)
    with Grace(checkpoint, prompter, lambda: engine) as grace:
        yield grace, engine


@pytest.mark.parametrize("in_flight", [1, 5, 64, 100])
def test_jobs_are_answered_in_their_order_and_never_more_in_flight_than_was_said(
    watched: tuple[Grace, Watched], in_flight: int
) -> None:
    grace, engine = watched
    taken = []

    def jobs() -> Iterator[Job]:
        for number in range(150):
            taken.append(number)
            yield grace.prompter.job(f"text {number}", mode="direct")

    answered = []
    for answer in grace.run(jobs(), in_flight=in_flight):
        answered.append(answer.input_tokens)
        assert len(taken) <= len(answered) + in_flight
    assert answered == list(range(150))
    assert in_flight / 2 < engine.most <= in_flight


def test_a_job_that_fails_raises_in_its_place_and_withdraws_those_after_it(watched: tuple[Grace, Watched]) -> None:
    grace, engine = watched
    engine.fails_at, engine.slow_after = 70, 70
    answered = []
    jobs = [grace.prompter.job(f"text {number}", mode="direct") for number in range(300)]

    def ask() -> None:
        for answer in grace.run(jobs):
            answered.append(answer.input_tokens)

    with pytest.raises(EngineError, match="this one fails"):
        ask()
    assert answered == list(range(70))
    until(lambda: engine.held == 0)
    assert engine.cancelled > 0


def test_a_stream_that_is_not_read_to_its_end_does_not_outlive_its_grace(faked: tuple[Grace, FakeEngine]) -> None:
    grace, engine = faked
    engine._seconds = 0.1
    stream = grace.stream("a text")
    next(stream)
    grace.close()
    assert engine.cancelled == 1
    with pytest.raises(EngineDead):
        next(stream)
    stream.close()


def test_a_stream_may_be_collected_wherever_python_does_it(faked: tuple[Grace, FakeEngine]) -> None:
    grace, engine = faked
    engine._seconds = 0.1
    for _ in range(2):
        stream = grace.stream("a text")
        next(stream)
        grace._loop.call_soon_threadsafe(stream.close)
    until(lambda: engine.cancelled == 2)
    stream = grace.stream("a text")
    next(stream)

    def collect_within_a_call() -> None:
        with grace._lock:
            stream.close()

    ended: list[BaseException | object] = []
    outcome_of(collect_within_a_call, ended).join(10)
    assert ended == [None]
    assert engine.cancelled == 3
    engine._seconds = 0
    asked: list[BaseException | object] = []
    outcome_of(lambda: grace.encode("another"), asked).join(10)
    assert len(asked) == 1
    assert isinstance(asked[0], np.ndarray)


def test_what_is_clearing_up_already_is_not_interrupted() -> None:
    ended: list[str] = []

    async def loads() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended.append("engine")

    async def interrupted() -> None:
        loading = asyncio.create_task(loads())
        await asyncio.sleep(0)
        loading.cancel()
        await asyncio.sleep(0)
        await _cancel_the_rest()

    asyncio.run(interrupted())
    assert ended == ["engine"]


def test_whoever_asks_while_it_is_being_closed_is_answered_or_refused(faked: tuple[Grace, FakeEngine]) -> None:
    grace, engine = faked
    engine._seconds = 0.001

    def ask_on() -> None:
        while True:
            grace.encode("a text")

    outcomes: list[BaseException | object] = []
    threads = [outcome_of(ask_on, outcomes) for _ in range(8)]
    until(lambda: engine.calls > 20)
    closing = [threading.Thread(target=grace.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    for thread in (*closing, *threads):
        thread.join(10)
        assert not thread.is_alive()
    assert {type(outcome) for outcome in outcomes} == {EngineDead}


def test_an_engine_that_does_not_start_leaves_nothing_running(model_folder: ModelFolder) -> None:
    checkpoint = Checkpoint.load(model_folder("qwen2"))
    prompter = Prompter(checkpoint)
    left: list[asyncio.Task[None]] = []

    class Stillborn(FakeEngine):
        async def start(self) -> None:
            left.append(asyncio.create_task(asyncio.sleep(60)))
            raise EngineError("it does not start")

    with pytest.raises(EngineError, match="it does not start"):
        Grace(checkpoint, prompter, lambda: Stillborn(prompter))
    assert left[0].cancelled()


def until(true: Callable[[], bool], *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_two_may_be_loaded_at_once_and_each_knows_its_own_processes(
    model_folder: ModelFolder, quick_starts: None
) -> None:
    script, loaded = sys.modules["__main__"], []
    folder = model_folder("qwen2")
    threads = [
        threading.Thread(target=lambda: loaded.append(Grace.load(folder, max_num_seqs=4, kv_cache_gib=0.1)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.modules["__main__"] is script
    first, second = loaded
    with first, second:
        assert first.engine._processes
        assert second.engine._processes
        assert first.engine._processes.isdisjoint(second.engine._processes)
        np.testing.assert_allclose(first.encode(TEXTS[0]), second.encode(TEXTS[0]), atol=1e-6)


def test_the_exact_engine_samples_from_logits_as_the_model_scales_them(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    granite = {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "logits_scaling": 8.0}
    (folder / "config.json").write_text(json.dumps(config | granite))
    with Grace.load(folder, engine="transformers") as grace:
        engine: Any = grace.engine
        states, logits, _ = engine._forward(list(grace.prompter.job("A text.").prompt_ids), None)
        with torch.inference_mode():
            unscaled = engine._model.lm_head(states[-1])
        torch.testing.assert_close(logits, unscaled / 8)
        assert grace.encode("A text.", temperature=0.7).shape == (64,)


@pytest.mark.parametrize("temperature", [1e-38, 1e-46, 5e-324])
def test_the_exact_engine_takes_a_temperature_next_to_0(model_folder: ModelFolder, temperature: float) -> None:
    with Grace.load(model_folder("qwen2"), engine="transformers") as grace:
        options: dict[str, Any] = {"max_rationale_tokens": 4}
        near = grace.encode(TEXTS[0], temperature=temperature, **options)
        np.testing.assert_array_equal(near, grace.encode(TEXTS[0], temperature=0, **options))


def test_a_plain_script_may_load_it_and_ends_without_a_word_if_it_does_not_close_it(
    model_folder: ModelFolder, tmp_path: Path
) -> None:
    """Without a main guard: a process that ran the script again would load a model of its own."""
    path = tmp_path / "script.py"
    load = f"grace = Grace.load({str(model_folder('qwen2'))!r}, kv_cache_gib=0.1)"
    path.write_text("\n".join(["from grace import Grace", load, "print(grace.encode('A text.').shape)", ""]))
    run = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "(64,)\n"), run.stderr
    assert "Error" not in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}},
            "speculative decoding",
        ),
        (
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
            "a KV connector",
        ),
        ({"kv_offloading_size": 1.0}, "a KV connector"),
    ],
    ids=["speculative", "connector", "offloading"],
)
def test_what_vllm_would_pool_wrongly_is_refused_with_the_reason(
    model_folder: ModelFolder, extra: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnsupportedModel, match=reason):
        Grace.load(model_folder("qwen2"), extra=extra, kv_cache_gib=0.1)


def test_a_shortened_context_cuts_texts_and_leaves_the_others_as_they_were(
    model_folder: ModelFolder, quick_starts: None
) -> None:
    """Rationales that fill their budget end the context too: vLLM must end them for the budget."""
    with Grace.load(model_folder("qwen2"), dtype="float32", max_context_tokens=160, kv_cache_gib=0.1) as short:
        assert short.prompter.max_input_tokens + short.prompter.max_rationale_tokens + short.prompter.overhead == 160
        np.testing.assert_allclose(short.encode(TEXTS, max_rationale_tokens=16), expected_of(model_folder), atol=1e-4)
        long = short.represent([SENTENCES * 20], max_rationale_tokens=short.prompter.max_rationale_tokens)[0]
        assert long.truncated
        assert long.input_tokens == short.prompter.max_input_tokens
        with pytest.raises(InputTooLong):
            short.encode(SENTENCES * 20, truncate=False)


def expected_of(model_folder: ModelFolder) -> np.ndarray:
    with Grace.load(model_folder("qwen2"), engine="transformers", dtype="float32") as whole:
        return whole.encode(TEXTS, max_rationale_tokens=16)


@pytest.mark.parametrize("tokens", [0, -1, 1_000_000])
def test_a_context_that_the_model_has_not_is_refused(tokens: int, model_folder: ModelFolder) -> None:
    with pytest.raises(CheckpointError, match=r"max_context_tokens must lie in 1\.\."):
        Grace.load(model_folder("qwen2"), max_context_tokens=tokens)


@pytest.mark.parametrize(("name", "instead"), [("max_model_len", "max_context_tokens"), ("dtype", "dtype")])
def test_arguments_that_spans_rest_on_are_set_by_their_own_names(
    name: str, instead: str, model_folder: ModelFolder
) -> None:
    with pytest.raises(EngineError, match=f"{name} is no further argument of vLLM's: set {instead} instead"):
        Grace.load(model_folder("qwen2"), extra={name: 1})
