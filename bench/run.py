"""Runs the benchmarks one after another, each by its command on the page, and makes the page anew: `make bench`.

    python bench/run.py                     all but the two longest (`soak`, `search_1m`)
    python bench/run.py load peers          these
    python bench/run.py --out FOLDER        figures there, and the page is left alone

Without the data folder retrieval is left out, and others take texts of their own; without `--infinity` that peer.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # this folder would shadow the standard library's http

import argparse
import shlex
import subprocess
import time

from bench._sections import SECTIONS
from bench.page import RESULTS, write

DATA = "../shared/data"
LONG = ("soak", "search_1m")
ELSEWHERE = {  # figures that stand on other pages
    "retrieval": f"python bench/retrieval.py --data {DATA} --engine vllm",
    "replicas": "python bench/replicas.py --rounds 2",
}
ON_A_GPU = "gpu"  # a script with a machine and an output of its own
COMMANDS = {section.results: section.command for section in SECTIONS if section.results != ON_A_GPU} | ELSEWHERE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(COMMANDS)}")
    parser.add_argument("--data", type=Path, default=Path(DATA))
    parser.add_argument("--infinity", type=Path, help="the command infinity_emb")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.names) - set(COMMANDS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = []
    for name in options.names or [name for name in COMMANDS if name not in LONG]:
        command = arguments(COMMANDS[name], options.data, options.infinity)
        if command is None:
            print(f"== {name}: left out, there is no {options.data}", flush=True)
            continue
        print(f"== {name}, {time.strftime('%H:%M:%S')}", flush=True)
        path = options.out.resolve() / f"{name}.json"
        if subprocess.run([sys.executable, *command, "--json", str(path)], cwd=ROOT, check=False).returncode:
            failed.append(name)
    if options.out == RESULTS:
        write()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def arguments(command: str, data: Path, infinity: Path | None) -> list[str] | None:
    """What follows `python`, with the places of this machine; None if it cannot do without the data."""
    words = shlex.split(command)[1:]
    for option, place in (("--data", data if data.exists() else None), ("--infinity", infinity)):
        if option in words:
            at = words.index(option)
            words[at : at + 2] = [option, str(place)] if place else []
    return None if "bench/retrieval.py" in words and "--data" not in words else words


if __name__ == "__main__":
    sys.exit(main())
