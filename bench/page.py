"""Writes tables and plots of `docs/benchmarks.md` from `bench/results/*.json`; `--check` only says if the page is old.

On the page each table lies between `<!-- name -->` and `<!-- /name -->`; the words around it are written by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # this folder would shadow the standard library's http

import argparse
import json
import re
from typing import Any

from bench._plots import PLOTS, draw
from bench._sections import SECTIONS, Row, Section, lookup

PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "bench" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        text = PAGE.read_text(encoding="utf-8")
        return int(page(text, read(RESULTS)) != text)
    write()
    return 0


def write() -> None:
    """Make tables and plots anew."""
    results = read(RESULTS)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    draw(results, ROOT / "docs" / "images")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """All results by their name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def page(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with each section's table made anew.

    Raises:
        ValueError: a section has no place on the page.
    """
    for section in SECTIONS:
        markers = re.compile(rf"(<!-- {section.name} -->\n).*?(<!-- /{section.name} -->)", re.DOTALL)
        if not markers.search(text):
            raise ValueError(f"the page has no place for {section.name}")
        made = table(section, results.get(section.results))
        text = markers.sub(lambda found, made=made: found[1] + made + found[2], text)
    return text


def table(section: Section, results: dict[str, Any] | None) -> str:
    """Markdown of a section: one line a figure that is there, and where all of them come from."""
    if results is None or (section.rows and all(lookup(results, row.key) is None for row in section.rows)):
        return f"Not measured yet: `{section.command}`\n"
    picture = [f"![{PLOTS[section.name]}](images/benchmarks-{section.name}.svg)", ""] if section.name in PLOTS else []
    rows = [line(row, results) for row in section.rows if lookup(results, row.key) is not None]
    head = ["| figure | value | 95 % interval | goal |", "|---|---|---|---|"] if rows else []
    return "\n".join([*picture, *head, *rows, *([""] if rows else []), source(section, results), ""])


def line(row: Row, results: dict[str, Any]) -> str:
    """One row of a table."""
    value = lookup(results, row.key)
    low_high = lookup(results, f"{row.key}_interval")
    between = " to ".join(row.form.format(bound) for bound in low_high) if low_high else ""
    goal = ""
    if row.goal:
        sign, bound = row.goal
        goal = f"{sign} {row.form.replace('+', '').format(bound)}" + ("" if row.met(value) else ", **missed**")
    return f"| {row.label} | {row.form.format(value)} | {between} | {goal} |"


def source(section: Section, results: dict[str, Any]) -> str:
    """Command, commit, date and machine, as far as the results tell."""
    about = results.get("about")
    if not about:
        return f"`{section.command}`; commit and machine were not recorded."
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if name != "grace-embed")
    return (
        f"`{about['command']}`, commit {about['commit']}, {about['date']}, {about['machine']}, "
        f"Python {about['python']}, {versions}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
