"""Writes tables and plots of `docs/benchmarks.md` from `bench/results/*.json`; `--check` only says if the page is old.

On the page each table lies between `<!-- name -->` and `<!-- /name -->`; the words around it are written by hand.
Figures of a second machine, in a folder of `bench/results`, have a column of their own.
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
SECOND = RESULTS / "epyc"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        text = PAGE.read_text(encoding="utf-8")
        return int(page(text, read(RESULTS), read(SECOND)) != text)
    write()
    return 0


def write() -> None:
    """Make tables and plots anew."""
    results = read(RESULTS)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results, read(SECOND)), encoding="utf-8")
    draw(results, ROOT / "docs" / "images")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """All results by their name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def page(text: str, results: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]]) -> str:
    """The page with each section's table made anew, from the results of the one machine and of the second.

    Raises:
        ValueError: a section has no place on the page.
    """
    for section in SECTIONS:
        markers = re.compile(rf"(<!-- {section.name} -->\n).*?(<!-- /{section.name} -->)", re.DOTALL)
        if not markers.search(text):
            raise ValueError(f"the page has no place for {section.name}")
        made = table(section, results.get(section.results), second.get(section.results))
        text = markers.sub(lambda found, made=made: found[1] + made + found[2], text)
    return text


def table(section: Section, results: dict[str, Any] | None, second: dict[str, Any] | None = None) -> str:
    """Markdown of a section: one line a figure that either machine has, and where they come from."""
    first, other = (found if found and measures(section, found) else None for found in (results, second))
    if first is None and other is None:
        return f"Not measured yet: `{section.command}`\n"
    picture = [f"![{PLOTS[section.name]}](images/benchmarks-{section.name}.svg)", ""] if section.name in PLOTS else []
    measured = [found for found in (first, other) if found]
    rows = [row for row in section.rows if any(lookup(found, row.key) is not None for found in measured)]
    column, rule = (" on the EPYC |", "---|") if other else ("", "")
    head = [f"| figure | value | 95 % interval | goal |{column}", f"|---|---|---|---|{rule}"] if rows else []
    lines = [*picture, *head, *(line(row, first or {}, other) for row in rows), *([""] if rows else [])]
    sources = [source(section, first)] if first else []
    if other and rows:
        sources += [*([""] if first else []), f"On the EPYC: {source(section, other)}"]
    return "\n".join([*lines, *sources, ""])


def measures(section: Section, results: dict[str, Any]) -> bool:
    """Whether results, which may be older than the section, hold any of its figures."""
    return not section.rows or any(lookup(results, row.key) is not None for row in section.rows)


def line(row: Row, results: dict[str, Any], second: dict[str, Any] | None = None) -> str:
    """One row of a table."""
    goal = f"{row.goal[0]} {row.form.replace('+', '').format(row.goal[1])}" if row.goal else ""
    value = lookup(results, row.key)
    cells = [row.label, shown(row, value), between(row, results), goal + missed(row, value)]
    if second:
        found, bounds = lookup(second, row.key), between(row, second)
        cells.append(shown(row, found) + (f" ({bounds})" if bounds else "") + missed(row, found))
    return f"| {' | '.join(cells)} |"


def shown(row: Row, value: float | None) -> str:
    """A figure as it is printed; nothing, where there is none."""
    return "" if value is None else row.form.format(value)


def between(row: Row, results: dict[str, Any]) -> str:
    """The interval of a figure, or nothing."""
    bounds = lookup(results, f"{row.key}_interval")
    return " to ".join(row.form.format(bound) for bound in bounds) if bounds else ""


def missed(row: Row, value: float | None) -> str:
    """What is said of a figure that falls short of its goal."""
    return ", **missed**" if value is not None and row.met(value) is False else ""


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
