"""Fuzzing by coverage, with atheris: `python -m tests.hostile.fuzz TARGET [libFuzzer's flags]`; `all` is all in turn.

`-max_total_time=300` ends it after five minutes; without, it goes on until something breaks. What broke is a file
`crash-...`, which the same command runs again when given its name. It starts from something valid of each kind
(`targets.SEEDS`), and changes JSON as JSON (`mutation.py`): bytes by chance are hardly ever any, and would find nothing
behind the parser.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

from tests.hostile.mutation import mutated

with atheris.instrument_imports(include=["grace", "grace_server", "grace_client"]):
    from tests.hostile import targets

EVERY = sorted(targets.TARGETS)


def chosen(name: str, data: bytes) -> None:
    """One target; of `all`, the first byte says which."""
    if name == "all":
        name, data = EVERY[data[0] % len(EVERY)] if data else EVERY[0], data[1:]
    targets.TARGETS[name](data)


def seeds(name: str) -> list[bytes]:
    """Where to start."""
    if name != "all":
        return targets.SEEDS[name]
    return [bytes([number]) + seed for number, target in enumerate(EVERY) for seed in targets.SEEDS[target]]


def changed(name: str, data: bytes, most: int, seed: int) -> bytes:
    """The next input made from this one: JSON stays JSON, mostly."""
    head, rest = (data[:1], data[1:]) if name == "all" else (b"", data)
    made = mutated(rest, random.Random(seed))
    if made is None or len(head) + len(made) > most:
        return bytes(atheris.Mutate(data, most))
    return head + made


def main() -> None:
    name = sys.argv.pop(1)
    targets.prompter()  # made now, so that no input is blamed for the time it takes
    with tempfile.TemporaryDirectory() as folder:
        if all(word.startswith("-") for word in sys.argv[1:]):  # no file to run again, no corpus of one's own
            for number, seed in enumerate(seeds(name)):
                (Path(folder) / str(number)).write_bytes(seed)
            sys.argv.append(folder)
        atheris.Setup(
            sys.argv,
            lambda data: chosen(name, data),
            custom_mutator=lambda data, most, seed: changed(name, data, most, seed),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
