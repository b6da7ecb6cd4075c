"""Reads a Dockerfile into stages: just what ours uses, and an error for anything else."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

INSTRUCTIONS = {
    "ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
    "ENTRYPOINT",
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, its `--options`, and the rest."""

    word: str
    options: tuple[str, ...]
    rest: str
    line: int

    def mounts(self) -> list[dict[str, str]]:
        """The `--mount` options of a RUN, as mappings."""
        found = [option.partition("=")[2] for option in self.options if option.startswith("--mount=")]
        return [dict(part.split("=", 1) for part in mount.split(",")) for mount in found]

    def exec_form(self) -> list[str]:
        """The JSON list of ENTRYPOINT or CMD."""
        return [str(part) for part in json.loads(self.rest.removeprefix("CMD "))]


@dataclass
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[Instruction]:
        """The instructions with this word, in order."""
        return [i for i in self.instructions if i.word == word]

    def environment(self) -> dict[str, str]:
        """What ENV sets, with references as they stand."""
        pairs = (pair for i in self.all("ENV") for pair in shlex.split(i.rest))
        return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}

    def arguments(self) -> dict[str, str]:
        """ARG with its default."""
        return {name: value for name, _, value in (i.rest.partition("=") for i in self.all("ARG"))}


def read(path: Path) -> dict[str, Stage]:
    """Stages by name, in order; ARGs before the first FROM are put into the bases."""
    stages: dict[str, Stage] = {}
    defaults: dict[str, str] = {}
    for found in _instructions(path.read_text(encoding="utf-8")):
        if found.word not in INSTRUCTIONS:
            raise ValueError(f"line {found.line}: {found.word} is not among what the tests can check")
        if found.word == "FROM":
            base, _, name = found.rest.partition(" AS ")
            stages[name] = Stage(name, re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], base))
        elif not stages:
            name, _, value = found.rest.partition("=")
            defaults[name] = value
        else:
            list(stages.values())[-1].instructions.append(found)
    return stages


def _instructions(text: str) -> list[Instruction]:
    found, pending, begin = [], "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        begin = begin if pending else number
        pending += line.strip()
        if pending.endswith("\\"):
            pending = pending[:-1].rstrip() + " "
            continue
        word, _, rest = pending.partition(" ")
        options = []
        while match := re.match(r"(--\w[\w-]*=\S+)\s+", rest):
            options.append(match[1])
            rest = rest[match.end() :]
        found.append(Instruction(word, tuple(options), rest, begin))
        pending = ""
    return found
