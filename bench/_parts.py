"""A measurement in parts, each in a process of its own with a log and a limit of time, so that none stops another."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench._shared import about

LOG_BYTES = 400_000  # of one part's log, the end of it


@dataclass(frozen=True)
class Part:
    run: Callable[[Asked], Any]
    about: str
    dtype: str = "float32"
    alone: bool = False  # of speed: nothing else may run
    limit_s: float = 150.0
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of the engine, beside the usual


@dataclass(frozen=True)
class Asked:
    """What a part's process is told."""

    part: Part
    small: bool
    figures: Callable[..., None]  # keeps what is known so far


class Run:
    """All parts that were asked for, each in a process of its own."""

    def __init__(self, script: Path, parts: Mapping[str, Part], options: Any, **known: Any) -> None:
        self.script, self.parts, self.options = script, parts, options
        self.names: list[str] = options.names or list(parts)
        self.end = time.monotonic() + options.budget
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{script.stem}.log").write_text("")
        # What is compiled is found again by the next run.
        self.work = Path(tempfile.gettempdir()) / f"grace-{script.stem}"
        self.work.mkdir(exist_ok=True)
        self.figures: dict[str, Any] = {"about": about() | known | {"parts": self.names}}
        self.writing = threading.Lock()

    def all(self) -> int:
        exact = [name for name in self.names if not self.parts[name].alone]
        speed = [name for name in self.names if self.parts[name].alone]
        with ThreadPoolExecutor(max_workers=self.options.at_once) as pool:
            list(pool.map(self.one, exact))
        for name in speed:
            self.one(name)
        failed = [name for name in self.names if not self.figures.get(name, {}).get("ok")]
        print(f"failed: {', '.join(failed)}" if failed else "all parts ran", flush=True)
        return bool(failed)

    def one(self, name: str) -> None:
        part, start = self.parts[name], time.monotonic()
        log, figures = self.work / f"{name}.log", self.work / f"{name}.json"
        figures.unlink(missing_ok=True)
        limit = min(part.limit_s, self.end - start)
        if limit < 5:
            self.keep(name, {"ok": False, "error": "no time was left"}, "")
            return
        command = [sys.executable, str(self.script), name, "--inside", str(figures)]
        command += ["--extra", json.dumps(self.options.extra)]
        command += [flag for flag in ("--small", "--eager") if getattr(self.options, flag[2:])]
        # A cache of its own: parts that compile at the same time are not to meet in one.
        cache, known = self.work / f"cache-{name}", Path.home() / ".cache" / "vllm" / "modelinfos"
        if known.is_dir():  # what vLLM has found out about its models, in a process that imports it again
            shutil.copytree(known, cache / known.name, dirs_exist_ok=True)
        given = {"VLLM_CACHE_ROOT": str(cache), "PYTHONUNBUFFERED": "1"} | part.environment
        with log.open("wb") as written:
            process = subprocess.Popen(
                command, stdout=written, stderr=written, env=os.environ | given, start_new_session=True
            )
            try:
                code: int | str = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                code = f"stopped after {limit:.0f} s"
            finally:
                end_group(process.pid)  # vLLM's engine too, which outlives a part that fell over
        found = json.loads(figures.read_text()) if figures.exists() else {}
        text = log.read_bytes()[-LOG_BYTES:].decode(errors="replace")
        if code == 0:
            found["ok"] = True
        else:
            found |= {"ok": False, "error": code, "log": text[-1500:]}
        found["seconds"] = round(time.monotonic() - start, 1)
        self.keep(name, found, text)

    def keep(self, name: str, found: dict[str, Any], log: str) -> None:
        told = {key: brief(value) for key, value in found.items() if key != "log"}
        with self.writing:
            self.figures[name] = found
            beside = self.out / f"{self.script.stem}.json.new"
            beside.write_text(json.dumps(self.figures, indent=2) + "\n")
            beside.replace(self.out / f"{self.script.stem}.json")
            with (self.out / f"{self.script.stem}.log").open("a") as file:
                file.write(f"\n===== {name}\n{log}\n")
            print(f"== {name}: {json.dumps(told)}", flush=True)
            if not found.get("ok"):
                print(log[-1200:], flush=True)


def brief(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.4g}")
        case list():
            return [brief(one) for one in value]
        case dict():
            return {key: brief(one) for key, one in value.items()}
    return value


def end_group(pid: int) -> None:
    """Kill a part's process and its children: its session is its own, so nobody else is in the group."""
    import psutil

    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess, PermissionError):
            continue


def inside(part: Part, options: Any) -> None:
    """One part, in its own process."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")  # which kernels were chosen stands in the log
    path = options.inside
    if options.eager:
        part.options["enforce_eager"] = True
    part.options["extra"] = part.options.get("extra", {}) | options.extra
    known: dict[str, Any] = {}

    def figures(**new: Any) -> None:
        known.update(new)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(known))
        beside.replace(path)

    code = 1
    try:
        asyncio.run(part.run(Asked(part, options.small, figures)))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)  # after an error vLLM's threads would keep this process; its engine is ended from outside
