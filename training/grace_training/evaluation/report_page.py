"""What a report is made of, before it is Markdown, CSV or HTML. Texts are plain; each writer escapes its own way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from grace_training.evaluation.report_resample import Interval


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of a table."""

    text: str
    value: float | None = None
    interval: Interval | None = None
    bold: bool = False  # only where a difference is outside its interval
    note: str = ""  # what makes this figure less than it seems
    shade: float | None = None  # 0..1, of a grid's cell

    @property
    def ends(self) -> tuple[str, str] | None:
        """The interval's ends, with as many decimals as the figure."""
        if self.interval is None:
            return None
        decimals = re.match(r"[+-]?\d+\.?(\d*)", self.text)
        digits = len(decimals.group(1)) if decimals else 2
        return f"{self.interval.low:.{digits}f}", f"{self.interval.high:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table; `published` ones are the paper's, not ours."""

    label: str
    cells: tuple[Cell, ...]
    kind: Literal["measured", "published"] = "measured"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Lines under columns."""

    name: str  # an identifier, for CSV and links
    title: str
    corner: str  # head of the first column
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    one_line: bool = False  # cells of words are not wrapped: for many columns of short words

    def is_words(self, column: int) -> bool:
        """Whether a column holds words, not figures."""
        cells = [line.cells[column] for line in self.lines]
        return all(cell.value is None for cell in cells) and any(cell.text not in ("", "–") for cell in cells)


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, as SVG without its surroundings' colours: they come from classes."""

    name: str
    title: str
    svg: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of a case study, with what it is."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """A text and what was written about it."""

    title: str
    passages: tuple[Passage, ...]


Block = Table | Plot | Case


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report."""

    name: str
    title: str
    words: tuple[str, ...] = ()  # paragraphs
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """The report."""

    title: str
    summary: tuple[str, ...]
    sections: tuple[Section, ...]
