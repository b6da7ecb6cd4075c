"""The long runs against hostile input, and what they came to, for docs/security.md.

`python -m tests.hostile.long_runs --seconds 60 --examples 200 --json docs/results/hostile.json` searches every parser
by coverage for so many seconds, tries so many sequences of requests a round, writes their figures down and makes the
page's table of them (`--page`: the table alone). What is found ends it with an error that says how to see it again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench._shared import about
from tests.hostile.targets import TARGETS

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "docs/results/hostile.json", ROOT / "docs/security.md"
BEGIN, END = "<!-- hostile -->\n", "<!-- /hostile -->"
MOST_BYTES = 2000  # of an input


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--examples", type=int, default=200, help="sequences of requests in a round")
    parser.add_argument("--json", type=Path, default=RESULTS, help="write the figures there")
    parser.add_argument("--page", action="store_true", help="run nothing, make the page's table of the figures")
    options = parser.parse_args()
    if not options.page:
        command = f"python -m tests.hostile.long_runs --seconds {options.seconds} --examples {options.examples}"
        figures = {
            "about": about() | {"command": command},
            "seconds": options.seconds,
            "examples": options.examples,
            "parsers": {name: searched(name, options.seconds) for name in sorted(TARGETS)},
            "sequences": tried(options.examples),
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if options.json.resolve() == RESULTS:  # another file is a trial
        figures = json.loads(RESULTS.read_text(encoding="utf-8"))
        PAGE.write_text(placed(PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")


def searched(name: str, seconds: int) -> dict[str, int]:
    """How many inputs a parser was given, and how many places of our code they reached.

    Raises:
        SystemExit: one of them broke it.
    """
    flags = [f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}"]
    command = [sys.executable, "-m", "tests.hostile.fuzz", name, *flags]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    if run.returncode:
        sys.exit(f"{' '.join(command)}\n{run.stderr[-4000:]}")
    done = re.search(r"^Done (\d+) runs", run.stderr, re.MULTILINE)
    places = re.findall(r"\bcov: (\d+)", run.stderr)
    assert done
    assert places
    return {"inputs": int(done[1]), "places": int(places[-1])}


def tried(examples: int) -> dict[str, int]:
    """What the sequences of requests came to: the figures that their test writes down."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "pytest", "-q", "tests/hostile/test_stateful.py"]
        variables = os.environ | {"GRACE_FUZZ_EXAMPLES": str(examples), "GRACE_FUZZ_JSON": str(file)}
        run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"GRACE_FUZZ_EXAMPLES={examples} {' '.join(command)}\n{run.stdout[-4000:]}")
        found: dict[str, int] = json.loads(file.read_text())
    return found


def placed(page: str, figures: dict[str, Any]) -> str:
    """The page with the table of these figures in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table(figures) + END + after


def table(figures: dict[str, Any]) -> str:
    """What was tried, in Markdown."""
    told, sequences = figures["about"], figures["sequences"]
    rows = [
        f"| {name} | {found['inputs']:,} | {found['places']} |" for name, found in sorted(figures["parsers"].items())
    ]
    return "\n".join(
        [
            "| parser | inputs | places of our code reached |",
            "|---|---|---|",
            *rows,
            "",
            f"Sequences of requests: {sequences['requests']:,} requests to {sequences['reached']} of "
            f"{sequences['operations']} operations, {sequences['followed']:,} of them with a name or id out of an "
            f"earlier answer, of which {sequences['followed_and_done']:,} were answered with 2xx; none with 5xx.",
            "",
            f"`{told['command']}`, commit {told['commit']}, {told['date']}, {told['machine']}. Nothing was found.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
