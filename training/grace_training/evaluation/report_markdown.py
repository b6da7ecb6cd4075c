"""The report as Markdown, and all its figures as one long CSV."""

from __future__ import annotations

import csv
import io
import re

from grace_training.evaluation.report_page import Case, Cell, Page, Plot, Section, Table


def markdown(page: Page) -> str:
    """Tables and texts; plots are in the HTML page, and their figures in the tables here."""
    parts = [f"# {_plain(page.title)}", *map(_plain, page.summary)]
    for section in page.sections:
        parts += [f"## {_plain(section.title)}", *map(_plain, section.words), blocks(section)]
    return "\n\n".join(parts) + "\n"


def blocks(section: Section) -> str:
    """A section's tables and texts, each under a heading of the third level."""
    parts: list[str] = []
    for block in section.blocks:
        match block:
            case Table():
                parts += [f"### {_plain(block.title)}", _table(block), *(f"{_plain(note)}" for note in block.notes)]
            case Case():
                parts.append(f"### {_plain(block.title)}")
                for passage in block.passages:
                    parts += [f"{_plain(passage.label)}:", _quoted(passage.text)]
            case Plot():
                pass
    return "\n\n".join(parts)


def long_csv(page: Page) -> str:
    """One line per figure: table, line, kind, column, text, value, low, high, bold, note."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "title", "line", "kind", "column", "text", "value", "low", "high", "bold", "note"])
    for section in page.sections:
        for block in section.blocks:
            if not isinstance(block, Table):
                continue
            for line in block.lines:
                for column, cell in zip(block.columns, line.cells, strict=True):
                    ends = cell.interval or ("", "")
                    known = "" if cell.value is None else cell.value
                    names = (block.name, block.title, line.label, line.kind, column, cell.text)
                    notes = "; ".join(note for note in (line.note, cell.note) if note)
                    writer.writerow([*map(_inert, names), known, *ends, int(cell.bold), _inert(notes)])
    return out.getvalue()


def _inert(text: str) -> str:
    """A spreadsheet would take a text that begins so for a formula; figures with a sign are left alone."""
    formula = text[:1] in ("=", "@", "\t") or (text[:1] in ("+", "-") and not re.match(r"[+-]\d", text))
    return f"'{text}" if formula else text


def _table(table: Table) -> str:
    head = [table.corner, *table.columns]
    rows = [head, ["---", *("---" if table.is_words(i) else "---:" for i in range(len(table.columns)))]]
    for line in table.lines:
        label = _in_table(line.label) + (f" ({_in_table(line.note)})" if line.note else "")
        label = f"*{label}*" if line.kind == "published" else label
        rows.append([label, *map(_cell, line.cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(cell: Cell) -> str:
    text = f"**{_in_table(cell.text)}**" if cell.bold else _in_table(cell.text)
    if cell.ends:
        text += f" [{cell.ends[0]}, {cell.ends[1]}]"
    return text


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing but text."""
    return re.sub(r"([\\`*_\[\]<>#|!])", r"\\\1", " ".join(text.split()))


def _in_table(text: str) -> str:
    return _plain(text)


def _quoted(text: str) -> str:
    # A fence longer than any inside: what is in it is never interpreted.
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
