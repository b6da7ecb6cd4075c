"""Plots as SVG, made here: they take their colours from the page, so that they are read on a dark one too.

Every text is escaped. A series may have a band, its interval; a point says its value when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[float, float]
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 54, 22, 14, 52
HUES = 6  # classes c0..c5 of the style sheet


@dataclass(frozen=True, slots=True)
class Series:
    """A line of points, and optionally the band around it."""

    label: str
    points: tuple[Point, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


def lines(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    *,
    log_x: bool = False,
    diagonal: bool = False,  # a line where y equals x
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines over one pair of axes, with a legend below."""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points] + [y for s in series for y in (*s.low, *s.high)]
    axes = _Axes(x_range or _span(xs), y_range or _span(ys, air=0.08), log_x=log_x)
    ticks_x = sorted(set(xs)) if log_x or len(set(xs)) <= 6 else _ticks(*axes.x)
    parts = axes.frame(ticks_x, _ticks(*axes.y), x_title, y_title)
    if diagonal:
        low, high = max(axes.x[0], axes.y[0]), min(axes.x[1], axes.y[1])
        parts.append(f'<path class="guide" d="{axes.path([(low, low), (high, high)])}"/>')
    for number, s in enumerate(series):
        hue = f"c{number % HUES}"
        if s.low and s.high:
            across = [x for x, _ in s.points]
            edge = [*zip(across, s.high, strict=True), *reversed(list(zip(across, s.low, strict=True)))]
            parts.append(f'<path class="band {hue}" d="{axes.path(edge)}Z"/>')
        parts.append(f'<path class="line {hue}" d="{axes.path(s.points)}"/>')
        for x, y in s.points:
            at = axes.place(x, y)
            parts.append(
                f'<circle class="dot {hue}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="3">'
                f"<title>{escape(s.label)}: {_short(x)}, {y:.4g}</title></circle>"
            )
    return _svg(parts, [s.label for s in series], f"{y_title} over {x_title}")


def bars(labels: Sequence[str], values: Sequence[float], whiskers: Sequence[Point | None], y_title: str) -> str:
    """One horizontal bar per label, with its interval as a whisker; labels may be long, so they stand above."""
    step, height = 40, 40 * len(labels) + 34
    ends = [v for w in whiskers if w for v in w]
    low, high = min(0.0, *values, *ends), max(0.0, *values, *ends)
    high = high if high > low else low + 1

    def across(value: float) -> float:
        return 10 + (value - low) / (high - low) * (WIDTH - 90)

    parts = []
    for row, (label, value, whisker) in enumerate(zip(labels, values, whiskers, strict=True)):
        top = row * step + 4
        start, end = sorted((across(0.0), across(value)))
        parts += [
            f'<text class="name" x="10" y="{top + 12}">{escape(label)}</text>',
            f'<rect class="bar c0" x="{start:.1f}" y="{top + 17}" width="{max(end - start, 1):.1f}" '
            f'height="13" rx="2"/>',
        ]
        beside = end
        if whisker:
            one, other = across(whisker[0]), across(whisker[1])
            beside = max(end, other)
            drawn = f"M{one:.1f} {top + 23.5}H{other:.1f}M{one:.1f} {top + 19}v9M{other:.1f} {top + 19}v9"
            parts.append(f'<path class="whisker" d="{drawn}"/>')
        parts.append(f'<text class="tick" x="{beside + 6:.1f}" y="{top + 28}">{value:.2f}</text>')
    parts.append(f'<text class="axis" x="10" y="{height - 8}">{escape(y_title)}</text>')
    return _svg(parts, [], y_title, height=height)


class _Axes:
    def __init__(self, x: Point, y: Point, *, log_x: bool) -> None:
        self.x, self.y, self._log = x, y, log_x

    def place(self, x: float, y: float) -> Point:
        x0, x1 = self.x
        share = (math.log(x / x0) / math.log(x1 / x0)) if self._log else (x - x0) / (x1 - x0)
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (self.place(*p) for p in points))

    def frame(self, xs: Sequence[float], ys: Sequence[float], x_title: str, y_title: str) -> list[str]:
        parts = []
        for y in ys:
            at = self.place(self.x[0], y)[1]
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{at + 4:.1f}">{_short(y)}</text>')
        for x in xs:
            at = self.place(x, self.y[0])[0]
            parts.append(f'<text class="tick mid" x="{at:.1f}" y="{HEIGHT - BOTTOM + 20}">{_short(x)}</text>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text class="axis mid" x="{middle}" y="{HEIGHT - 8}">{escape(x_title)}</text>')
        turned = HEIGHT / 2 - 16
        parts.append(
            f'<text class="axis mid" transform="rotate(-90 12 {turned})" x="12" y="{turned}">{escape(y_title)}</text>'
        )
        return parts


def _svg(parts: list[str], legend: Sequence[str], meaning: str, *, height: int = HEIGHT) -> str:
    named = []
    for number, label in enumerate(legend):
        top = height + 8 + 20 * number
        named.append(f'<path class="line c{number % HUES}" d="M{LEFT} {top}h22"/>')
        named.append(f'<text class="name" x="{LEFT + 30}" y="{top + 4}">{escape(label)}</text>')
    whole = height + (20 * len(legend) + 6 if legend else 0)
    return (
        f'<svg viewBox="0 0 {WIDTH} {whole}" role="img" aria-label="{escape(meaning, {chr(34): "&quot;"})}">'
        + "".join([*parts, *named])
        + "</svg>"
    )


def _span(values: Sequence[float], air: float = 0.0) -> Point:
    low, high = min(values), max(values)
    if low == high:
        return low - 0.5, high + 0.5
    return low - air * (high - low), high + air * (high - low)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / about))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    return f"{value:.6g}" if abs(value) >= 1 else f"{value:.3g}"
