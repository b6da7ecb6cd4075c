"""What breaks: a service in process as in `tests/server`, or a process that may be killed, in a world that may fail."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.server.conftest import checkpoint, model_folder, no_settings_from_outside, prompter, serve, until

__all__ = ["checkpoint", "model_folder", "no_settings_from_outside", "prompter", "serve"]

ROOT = Path(__file__).parents[2]


@dataclass
class Child:
    """A service in a process of its own: who it is, what it said, and a client of it."""

    pid: int
    out: Path
    log: Path
    ends: dict[int, int]
    client: httpx.AsyncClient = field(default_factory=httpx.AsyncClient)

    async def ask(self, verb: str, path: str, status: int, **body: Any) -> Any:
        reply = await self.client.request(verb, path, json=body or None)
        assert reply.status_code == status, reply.text
        return reply.json()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    @property
    def alive(self) -> bool:
        return self.pid not in self.ends

    async def ended(self) -> int:
        await until(lambda: not self.alive, seconds=30)
        return self.ends[self.pid]


Start = Callable[..., AbstractAsyncContextManager[Child]]


@dataclass
class Nursery:
    """The process that services are forked from, and how those ended that did."""

    process: Process
    ends: dict[int, int] = field(default_factory=dict)
    births: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            told = json.loads(line)
            if "born" in told:
                self.births.put_nowait(told["born"])
            else:
                self.ends[told["pid"]] = told["code"]

    async def bear(self, **wanted: Any) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(wanted).encode() + b"\n")
        async with asyncio.timeout(90):
            return await self.births.get()


@pytest_asyncio.fixture(scope="session")
async def nursery(shim: Path | None) -> AsyncIterator[Nursery]:
    preloaded = {"LD_PRELOAD": str(shim)} if shim else {}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.nursery",
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **preloaded},
    )
    made = Nursery(process)
    listening = asyncio.create_task(made.listen())
    yield made
    process.kill()
    await process.wait()
    await listening


@pytest.fixture
def start(nursery: Nursery, model_folder: Path, tmp_path: Path) -> Start:
    """Start a service on `<tmp_path>/data`; on leaving, it is killed if it still runs. `seconds`: what a text takes."""
    born = iter(range(100))

    @asynccontextmanager
    async def run(*flags: str, seconds: float = 0.0, log: Path | None = None, **world: str) -> AsyncIterator[Child]:
        number = next(born)
        out, err = tmp_path / f"out{number}", log or tmp_path / f"log{number}"
        arguments = [str(model_folder), str(seconds), f"--data-dir={tmp_path / 'data'}", *flags]
        pid = await nursery.bear(arguments=arguments, variables=world, stdout=str(out), stderr=str(err))
        child = Child(pid, out, err, nursery.ends)
        try:
            await until(lambda: not child.alive or (out.exists() and "try" in out.read_text()), seconds=60)
            found = re.search(r"http://\S+", out.read_text())
            async with httpx.AsyncClient(base_url=found[0] if found else "", timeout=30) as child.client:
                yield child
        finally:
            if child.alive:
                with suppress(ProcessLookupError):
                    child.send(signal.SIGKILL)
                await child.ended()

    return run


@asynccontextmanager
async def command(*flags: str, log: Path, out: Path | None = None) -> AsyncIterator[Process]:
    """`grace-serve` as an operator starts it, with a real engine; on leaving, it is killed if it still runs."""
    program = [sys.executable, "-m", "grace_server.cli", "--port=0", "--kv-cache-gib=0.2", *flags]
    errors, opened = (os.open(path, os.O_RDWR | os.O_CREAT) for path in (log, out or os.devnull))
    service = await asyncio.create_subprocess_exec(
        *program, stdout=opened if out else PIPE, stderr=errors, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    os.close(errors)
    os.close(opened)
    try:
        yield service
    finally:
        if service.returncode is None:
            service.kill()
        await service.wait()


@dataclass
class World:
    """The disk under a folder and the wall clock of the services that are started with `variables`."""

    variables: dict[str, str]
    control: Path

    def becomes(self, *, error: int = 0, ahead_s: int = 0) -> None:
        fresh = self.control.with_suffix(".new")
        fresh.write_text(f"{error} {ahead_s}\n")
        fresh.rename(self.control)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """`world.c`, compiled, where that can be done."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    library = tmp_path_factory.mktemp("shim") / "world.so"
    source = Path(__file__).with_name("world.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def world(shim: Path | None, tmp_path: Path) -> World:
    """A world in order, in which `<tmp_path>/data` is the disk that may fail."""
    if shim is None:
        pytest.skip("needs Linux and a C compiler")
    made = World({"WORLD": str(tmp_path / "world"), "WORLD_UNDER": str(tmp_path / "data")}, tmp_path / "world")
    made.becomes()
    return made
