"""`grace-eval`: evaluate a checkpoint, or any peer, and set the results side by side.

Each command lives in a module of its own, which adds its options and says what to run; modules are imported when the
command is parsed, so they must import mteb, lm-eval and torch inside what they run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

EPILOG = """\
examples:
  grace-eval local                                        the bundled model on the shipped suite
  grace-eval local --data suites/mine --model runs/a/final
  grace-eval mteb --benchmark "MTEB(eng, v2)" --model runs/a/final --dry-run
  grace-eval mteb --tasks SciFact,STSBenchmark --peer st:sentence-transformers/all-MiniLM-L6-v2
  grace-eval report results/ --out report.html
"""


def parser() -> argparse.ArgumentParser:
    """The command line, with every command's options."""
    from grace_training.evaluation import explanations, general, local, mteb_command, report

    p = argparse.ArgumentParser(
        prog="grace-eval",
        description="The paper's tables, for any model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (mteb_command, local, general, explanations, report):
        module.add_parser(commands)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it went well, 1 when tasks failed, 2 when it could not be done."""
    # Before anything is imported that reports its use; a setting of the user's own is left alone.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    options = parser().parse_args(arguments)
    from grace.errors import GraceError

    # A plain end would leave the engine's process at work: this one unwinds, and what is open is closed.
    ended = signal.signal(signal.SIGTERM, _end)
    try:
        return int(options.run(options))
    except GraceError as error:
        print(f"grace-eval: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, ended)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
