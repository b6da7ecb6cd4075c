"""The engine that stands for replicas: what it does when they die, without a cluster."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

from ray.exceptions import ActorDiedError, RayTaskError  # noqa: E402
from ray.serve._private.common import DeploymentID  # noqa: E402
from ray.serve.exceptions import DeploymentUnavailableError  # noqa: E402

from grace.engines.fake import FakeEngine  # noqa: E402
from grace.errors import EngineDead, InputTooLong, InvalidInput, StateMismatch  # noqa: E402
from grace.prompt import Prompter  # noqa: E402
from grace.representation import Job, Representation  # noqa: E402
from grace_server.admission import Admission  # noqa: E402
from grace_server.metrics import Metrics  # noqa: E402
from grace_server.places import Limits  # noqa: E402
from grace_server.replicas import engine as module  # noqa: E402
from grace_server.replicas.engine import NoReplica, ReplicaEngine, ReplicaLost  # noqa: E402
from grace_server.replicas.replica import EngineReplica, OtherModel  # noqa: E402
from grace_server.settings import Settings  # noqa: E402


class Response:
    """What Serve gives back at once: awaited for a value, iterated for a stream."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work, self.cancelled = work, False

    def __await__(self) -> Any:
        return self._work().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._work()

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    """A deployment of one replica. Each call first meets the next of `troubles`: an error, or after how many pieces."""

    def __init__(self, engine: FakeEngine, *troubles: Exception | tuple[int, Exception]) -> None:
        self.engine, self.troubles, self.calls = engine, list(troubles), 0
        self.responses: list[Response] = []
        self._method = ""

    def options(self, *, method_name: str, stream: bool = False) -> Handle:
        self._method = method_name
        return self

    def remote(self, fingerprint: str, *arguments: Job) -> Response:
        self.calls += 1
        trouble = self.troubles.pop(0) if self.troubles else None
        work = self._stream if self._method == "stream" else self._answer
        self.responses.append(Response(lambda: work(arguments[0], trouble)))
        return self.responses[-1]

    async def _answer(self, job: Job, trouble: Any) -> Representation:
        if trouble is not None:
            raise trouble
        return await self.engine.represent(job)

    async def _stream(self, job: Job, trouble: Any) -> AsyncIterator[Any]:
        pieces, error = trouble if isinstance(trouble, tuple) else (0, trouble)
        given = 0
        async for item in self.engine.stream(job):
            if error is not None and given == pieces:
                raise error
            given += 1
            yield item


def raised(cause: Exception) -> RayTaskError:
    """An error of a replica, as Ray brings it."""
    return RayTaskError("represent", "traceback", cause).as_instanceof_cause()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def job(prompter: Prompter) -> Job:
    return prompter.job("The river rises in the hills.")


@pytest.fixture
def fake(prompter: Prompter) -> FakeEngine:
    return FakeEngine(prompter)


def over(handle: Handle, attempts: int = 3) -> ReplicaEngine:
    return ReplicaEngine(handle, "f", attempts=attempts, count=lambda: 2)  # type: ignore[arg-type]


LOSSES = [
    ActorDiedError(),
    DeploymentUnavailableError(DeploymentID("replicas")),
    raised(EngineDead("gone")),
    raised(OtherModel("old")),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
async def test_a_lost_text_is_asked_of_another_replica(fake: FakeEngine, job: Job, loss: Exception) -> None:
    handle = Handle(fake, loss)
    made = await over(handle).represent(job)
    assert (made.sums == (await fake.represent(job)).sums).all()
    assert handle.calls == 2


async def test_after_so_many_replicas_it_is_given_up(fake: FakeEngine, job: Job) -> None:
    handle = Handle(fake, *[ActorDiedError()] * 5)
    with pytest.raises(NoReplica) as told:
        await over(handle, attempts=3).represent(job)
    assert (told.value.status, told.value.retry_after, handle.calls) == (503, 30, 3)


@pytest.mark.parametrize("error", [StateMismatch("one too many"), InvalidInput("no", param="probe")])
async def test_what_is_wrong_with_the_text_is_told_as_it_was_and_not_tried_again(
    fake: FakeEngine, job: Job, error: Exception
) -> None:
    handle = Handle(fake, raised(error))
    with pytest.raises(type(error)) as told:
        await over(handle).represent(job)
    assert told.value is error
    assert handle.calls == 1


async def test_a_stream_that_has_not_begun_begins_elsewhere(fake: FakeEngine, job: Job) -> None:
    items = [item async for item in over(Handle(fake, ActorDiedError(), raised(EngineDead("gone")))).stream(job)]
    assert "".join(item for item in items if isinstance(item, str)).startswith("<think>")
    assert isinstance(items[-1], Representation)


async def test_a_stream_that_has_begun_ends_with_an_error_of_its_own(fake: FakeEngine, job: Job) -> None:
    handle = Handle(fake, (2, ActorDiedError()))
    items = over(handle).stream(job)
    assert [await anext(items), await anext(items)] == [item async for item in fake.stream(job)][:2]
    with pytest.raises(ReplicaLost) as told:
        await anext(items)
    assert (told.value.status, told.value.code, handle.calls) == (503, "replica_lost", 1)


async def test_whoever_leaves_takes_the_replicas_work_along(prompter: Prompter, job: Job) -> None:
    handle = Handle(FakeEngine(prompter, seconds_per_text=60))
    task = asyncio.create_task(over(handle).represent(job))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.responses[0].cancelled
    async with asyncio.timeout(5):
        stream = over(handle).stream(job)
        waiting = asyncio.ensure_future(anext(aiter(stream)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert handle.responses[1].cancelled


async def test_the_replicas_that_run_are_counted(fake: FakeEngine) -> None:
    engine = over(Handle(fake))
    engine._replicas._answer = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign] # `ready` answers nothing
    engine._replicas.remote = lambda *_: Response(lambda: asyncio.sleep(0))  # type: ignore[method-assign]
    await engine.start()
    async with asyncio.timeout(5):
        while engine.running != 2:  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(0.01)
    await engine.close()


@pytest.mark.filterwarnings("ignore:coroutine 'EngineReplica.__del__'")  # which Serve awaits
async def test_a_replica_answers_for_its_own_checkpoint_only(prompter: Prompter, job: Job) -> None:
    settings = Settings(model=str(prompter.checkpoint.folder))
    replica = EngineReplica.__new__(EngineReplica)
    gc.unfreeze()
    await replica.__init__(settings, lambda *parts: FakeEngine(parts[-1]))  # type: ignore[misc]
    assert gc.get_freeze_count() > 50_000, "what was loaded is out of the garbage collector's way"
    gc.unfreeze()
    fingerprint = prompter.checkpoint.fingerprint
    await replica.ready(fingerprint)
    assert (await replica.represent(fingerprint, job)).pooled_tokens
    with pytest.raises(OtherModel, match="this replica runs"):
        await replica.represent("another", job)
    await replica.check_health()
    replica._engine.kill()  # type: ignore[attr-defined]
    with pytest.raises(EngineDead):
        await replica.check_health()


async def test_admission_lets_in_as_many_as_all_replicas_hold(prompter: Prompter, job: Job) -> None:
    engines = 1
    engine = FakeEngine(prompter, seconds_per_text=60)
    limits = Limits(2, 10_000, 100, 10**6, queue_timeout_s=60)
    admission = Admission(engine, limits, Metrics(), generate_timeout_s=60, engines=lambda: engines)
    texts = [prompter.job(f"Text {i}.") for i in range(8)]
    tasks = [asyncio.create_task(admission.represent(text)) for text in texts[:4]]
    await asyncio.sleep(0.01)
    assert engine.calls == 2
    engines = 3
    tasks.append(asyncio.create_task(admission.represent(texts[4])))  # queues behind the others
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    assert engine.calls == 5  # who leaves lets in as many as there is room for now
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("error", [InvalidInput("no", param="probe"), InputTooLong(9, 5, param="rationale")])
def test_errors_keep_their_fields_between_processes(error: InvalidInput) -> None:
    import pickle

    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))
