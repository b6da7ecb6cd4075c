"""Fuzzing by coverage, with atheris: `python -m tests.hostile.fuzz TARGET [libFuzzer's flags]`; `all` is all in turn.

`-max_total_time=300` ends it after five minutes; without, it goes on until something breaks. What broke is a file
`crash-...`, which the same command runs again when given its name.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["grace", "grace_server", "grace_client"]):
    from tests.hostile import targets


def chosen(name: str, data: bytes) -> None:
    """One target; of `all`, the first byte says which."""
    if name == "all":
        every = sorted(targets.TARGETS)
        name, data = every[data[0] % len(every)] if data else every[0], data[1:]
    targets.TARGETS[name](data)


def main() -> None:
    name = sys.argv.pop(1)
    targets.prompter()  # made now, so that no input is blamed for the time it takes
    atheris.Setup(sys.argv, lambda data: chosen(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
