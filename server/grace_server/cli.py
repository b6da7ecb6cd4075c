"""`grace-serve`: start the service, say where it is, stop it politely."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, get_args

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from grace.streams import lose_what_cannot_be_written
from grace_server import logs
from grace_server.app import create_app
from grace_server.connection import Connection
from grace_server.life import EXIT_ADDRESS, EXIT_USAGE, Life
from grace_server.settings import PREFIX, Settings, unknown_variables

_GOODBYE_S = 2  # after draining: for responses to leave their buffers
_ONE_READ = 2**18  # bytes, the most that an event loop reads at once


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of `grace-serve`; exit codes are listed in `docs/operations.md`."""
    lose_what_cannot_be_written()
    flags = {name: value for name, value in vars(parser().parse_args(argv)).items() if value is not None}
    try:
        settings = Settings(**flags)
    except ValidationError as error:
        for problem in error.errors():
            print(f"grace-serve: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except (OSError, ValueError) as error:
        print(f"grace-serve: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    logs.configure(settings.log_level)
    for name in unknown_variables():
        logs.service.warning("this variable is no setting; a typing error?", extra={"variable": name})
    if not settings.api_keys and not _is_own(settings.host):
        logs.service.warning("no key is set: whoever reaches the address may ask", extra={"host": settings.host})
    sys.exit(run(create_app(settings), settings))


def parser() -> argparse.ArgumentParser:
    """One flag per setting."""
    found = argparse.ArgumentParser(
        "grace-serve",
        description="Serve a GRACE checkpoint over HTTP.",
        epilog="Flags win over variables, these over the YAML file, that over the defaults.",
    )
    for name, field in Settings.model_fields.items():
        flag, words = "--" + name.replace("_", "-"), f"{field.description} [{PREFIX}{name.upper()}"
        default = "" if field.default is PydanticUndefined else field.default
        words = (words + (f"; {_shown(default)}]" if default not in (None, "", ()) else "]")).replace("%", "%%")
        if bool in (field.annotation, *get_args(field.annotation)):
            found.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=words)
        else:
            found.add_argument(flag, default=None, help=words, metavar="X")
    return found


def run(app: FastAPI, settings: Settings) -> int:
    """Serve until stopped; the exit code."""
    try:
        listener = listen(settings)
    except OSError as error:
        print(f"grace-serve: cannot listen on {settings.host}:{settings.port}: {error.strerror}", file=sys.stderr)
        return EXIT_ADDRESS
    config = _config(app, settings)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(serve(app, settings, listener))


async def serve(app: FastAPI, settings: Settings, listener: socket.socket) -> int:
    """Serve on a socket until a signal comes or the service cannot go on; the exit code."""
    life: Life = app.state.life
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=_ignore_ctrl_c))
    server = _Server(_config(app, settings))
    signals = _Signals(server, life, settings)
    host, port = listener.getsockname()[:2]
    helpers = [
        asyncio.create_task(_settle(life)),
        asyncio.create_task(_announce(life, settings, host, port)),
        asyncio.create_task(signals.stop_when_fatal()),
    ]
    with signals.handled():
        try:
            await server.serve(sockets=[listener])
        finally:
            for helper in [*helpers, *signals.tasks]:
                helper.cancel()
    return life.exit_code


class _Server(uvicorn.Server):
    """uvicorn would end the process by the signal it got; we drain first and exit with a code."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Signals:
    """The first SIGTERM or Ctrl-C drains, the second one forces."""

    def __init__(self, server: uvicorn.Server, life: Life, settings: Settings) -> None:
        self._server, self._life, self._settings = server, life, settings
        self.tasks: list[asyncio.Task[None]] = []

    @contextmanager
    def handled(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def stop_when_fatal(self) -> None:
        """What waits has been failed with 503 by then; give these answers the time to leave."""
        await self._life.fatal.wait()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._life.empty()
        except TimeoutError:
            pass
        self._server.should_exit = True

    def _stop(self) -> None:
        if self.tasks:
            logs.service.warning("told to stop a second time: not waiting any longer")
            self._server.force_exit = self._server.should_exit = True
            return
        logs.service.info("draining", extra={"drain_timeout_s": self._settings.drain_timeout_s})
        self._life.drain()
        self.tasks.append(asyncio.create_task(self._drain()))

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._life.empty()
        except TimeoutError:
            logs.service.warning("some requests did not finish in time and are cut off")
        self._server.should_exit = True


def _ignore_ctrl_c() -> None:
    """Engines start their processes from such a thread, and they inherit this: a terminal sends Ctrl-C to them too.

    The engine would end at once, and there would be nothing left to drain with.
    """
    resource_tracker.ensure_running()  # Python's first child process unblocks what is blocked here (3.11): have it now
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def listen(settings: Settings) -> socket.socket:
    """Bound before anything is loaded: a taken port is found at once, and port 0 has its number."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; without, each response waits 40 ms for an
    # acknowledgement between its head and its body.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(False)
    return listener


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection.under(settings),
        ws="none",  # there is no such route, and its handshake would pass by the keys
        log_config=None,
        access_log=False,
        server_header=False,
        # h11 has a limit of its own, 64 KiB, and answers 400: it is to come after ours, which says what is too large.
        h11_max_incomplete_event_size=settings.max_head_kib * 1024 + _ONE_READ,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=_GOODBYE_S,
        backlog=2048,
    )


async def _settle(life: Life) -> None:
    """Take what is here for good out of the garbage collector's way.

    vLLM and torch alone are 750,000 objects: looking through them again and again stopped the event loop for half a
    second each time.
    """
    await _loaded(life)
    if life.phase == "ready":
        gc.freeze()


async def _loaded(life: Life) -> None:
    while life.phase == "loading":  # noqa: ASYNC110 - once, when the process starts
        await asyncio.sleep(0.05)


async def _announce(life: Life, settings: Settings, host: str, port: int) -> None:
    """Three lines for a person, once the service answers."""
    await _loaded(life)
    if life.phase != "ready":
        return
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{shown}:{port}"
    key = " -H 'authorization: Bearer <key>'" if settings.api_keys else ""
    body = json.dumps({"input": "The river rises in the hills and meets the sea at a harbour."})
    print(f"GRACE serves {settings.model} at {address}")
    print(f"  documentation  {address}/docs")
    print(f"  try            curl -s {address}/embed{key} -H 'content-type: application/json' -d '{body}'", flush=True)


def _is_own(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


if __name__ == "__main__":
    main()
