"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.

Whatever a model or a person wrote goes through `escape`; a policy in the page forbids everything that could be
fetched or run, should something ever get through.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from grace_training.evaluation.report_page import Block, Case, Cell, Line, Page, Plot, Section, Table

STYLE = Path(__file__).with_name("report.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_CLASS_WORDS = ' class="words"'


def html(page: Page) -> str:
    """The whole page."""
    links = "".join(f'<li><a href="#{_id(s.name)}">{_e(s.title)}</a></li>' for s in page.sections)
    summary = "".join(f"<p>{_e(words)}</p>" for words in page.summary)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{_e(page.title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f'<body><header><h1>{_e(page.title)}</h1>{summary}</header><nav aria-label="Contents"><ul>{links}</ul></nav>'
        f"<main>{''.join(map(_section, page.sections))}</main></body></html>\n"
    )


def _section(section: Section) -> str:
    words = "".join(f"<p>{_e(text)}</p>" for text in section.words)
    blocks = "".join(map(_block, section.blocks))
    return f'<section id="{_id(section.name)}"><h2>{_e(section.title)}</h2>{words}{blocks}</section>'


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Plot():
            return f"<figure><figcaption>{_e(block.title)}</figcaption>{block.svg}{_notes(block.notes)}</figure>"
        case Case():
            passages = "".join(f"<dt>{_e(passage.label)}</dt><dd>{_e(passage.text)}</dd>" for passage in block.passages)
            return f'<article class="case"><h3>{_e(block.title)}</h3><dl>{passages}</dl></article>'


def _table(table: Table) -> str:
    words = [table.is_words(column) for column in range(len(table.columns))]
    heads = "".join(
        f'<th scope="col"{_CLASS_WORDS if is_words else ""}>{_e(column)}</th>'
        for column, is_words in zip(table.columns, words, strict=True)
    )
    body = "".join(_line(line, words) for line in table.lines)
    dense = ' class="dense"' if table.one_line else ""
    # Focus by keyboard, so that a wide table can be scrolled without a mouse.
    return (
        f'<h3 id="{_id(table.name)}-title">{_e(table.title)}</h3>'
        f'<div class="wide" tabindex="0" role="region" aria-labelledby="{_id(table.name)}-title"><table{dense}>'
        f'<thead><tr><th scope="col">{_e(table.corner)}</th>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        f"{_notes(table.notes)}"
    )


def _line(line: Line, words: list[bool]) -> str:
    note = f"<small>{_e(line.note)}</small>" if line.note else ""
    cells = "".join(_cell(cell, is_words) for cell, is_words in zip(line.cells, words, strict=True))
    return f'<tr class="{line.kind}"><th scope="row">{_e(line.label)}{note}</th>{cells}</tr>'


def _cell(cell: Cell, is_words: bool) -> str:
    text = f"<b>{_e(cell.text)}</b>" if cell.bold else _e(cell.text)
    if cell.ends:
        text += f"<small>{cell.ends[0]} to {cell.ends[1]}</small>"
    # Reasons of failures stand in a table of their own: this one is for a pointer.
    hint = f' title="{_e(cell.note)}"' if cell.note else ""
    shade = f' class="shade" style="--share:{cell.shade:.3f}"' if cell.shade is not None else ""
    return f"<td{hint}{shade}{_CLASS_WORDS if is_words else ''}>{text}</td>"


def _notes(notes: tuple[str, ...]) -> str:
    return "".join(f'<p class="note">{_e(note)}</p>' for note in notes)


def _id(name: str) -> str:
    return escape(name, quote=True).replace(" ", "-")


def _e(text: str) -> str:
    return escape(text, quote=True)
