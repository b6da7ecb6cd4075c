"""Several stages, in turn or at once: `make tiny` in one command.

    python -m grace_training.tiny.stages --at-once "pretrain --rows 128" "words" widen "contrast --device cuda"

At once each stage waits for the one before it (`--wait`), so that imports and reading of data cost no time of their
own. Each goes on where it was stopped; where one fails, the others are ended, and its code is told.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence

LOOK_S = 0.2
TERMINATE_S = 10.0


def command(stage: str, *more: str) -> list[str]:
    """What runs a stage, told as its name with its options."""
    name, *options = shlex.split(stage)
    return [sys.executable, "-m", f"grace_training.tiny.{name}", *options, *more]


def in_turn(stages: Sequence[str]) -> int:
    """The code of the first that fails, or 0."""
    for stage in stages:
        if code := subprocess.run(command(stage), check=False).returncode:
            return code
    return 0


def at_once(stages: Sequence[str]) -> int:
    """The code of the first that fails, the others ended; or 0."""
    running = [subprocess.Popen(command(stage, "--wait")) for stage in stages]
    try:
        while True:
            codes = [process.poll() for process in running]
            if failed := [code for code in codes if code]:
                return failed[0]
            if None not in codes:
                return 0
            time.sleep(LOOK_S)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", metavar="STAGE", help="name and options, as one argument")
    parser.add_argument("--at-once", action="store_true")
    options = parser.parse_args()
    return (at_once if options.at_once else in_turn)(options.stages)


if __name__ == "__main__":
    sys.exit(main())
