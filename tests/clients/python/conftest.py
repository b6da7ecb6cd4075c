"""The real application, without a socket; both clients in front of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_client import NO_RETRIES, AsyncGraceClient, GraceClient, Retries
from grace_server.index.approximate import use_threads
from tests.clients.python.both import Both
from tests.clients.python.house import House, running
from tests.support.models import make_model

Client = Callable[..., Both]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    use_threads(1)


@pytest.fixture(scope="session")
def prompter(tmp_path_factory: pytest.TempPathFactory) -> Prompter:
    return Prompter(Checkpoint.load(make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen2")))


@pytest.fixture(scope="session")
def shared_house(prompter: Prompter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("house"), prompter) as house:
        yield house


@pytest.fixture
def house(shared_house: House) -> House:
    """The application, without what other tests left behind."""
    with GraceClient("http://grace", transport=shared_house.transport) as client:
        for index in client.indexes.list():
            client.indexes.delete(index.name)
    shared_house.requests.clear()
    return shared_house


@pytest.fixture
def house_with(prompter: Prompter, tmp_path: Path) -> Iterator[Callable[..., House]]:
    """An application with settings of the test's own."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(tmp_path, prompter, **settings))


@pytest.fixture(scope="session")
def listening(prompter: Prompter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """An application on a port, for those who cannot do without."""
    with running(tmp_path_factory.mktemp("listening"), prompter, listening=True) as house:
        yield house


@pytest.fixture(params=["sync", "async"])
def client_of(request: pytest.FixtureRequest) -> Client:
    """Makes a client of one of the two kinds, for a house or for a function that answers requests."""

    def make(where: House | Callable[[httpx.Request], httpx.Response], **options: Any) -> Both:
        options.setdefault("retries", NO_RETRIES)
        if request.param == "sync":
            sync = where.transport if isinstance(where, House) else httpx.MockTransport(where)
            return Both(GraceClient("http://grace", transport=sync, **options))
        transport = where.async_transport if isinstance(where, House) else httpx.MockTransport(where)
        return Both(AsyncGraceClient("http://grace", transport=transport, **options))

    return make


@pytest.fixture
def client(client_of: Client, house: House) -> Both:
    return client_of(house)


def at_once(attempts: int = 4) -> Retries:
    """Retries without waiting."""
    return Retries(attempts=attempts, first_wait_s=0.0, draw=lambda: 0.0)
