"""Training curves as SVG and PNG, drawn here: three hundred points need no plotting library.

Panels are laid out once, as lines and words in points of the page; the two writers only put them down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

Point = tuple[float, float]
WIDTH, HEIGHT, PAD, COLUMNS = 360, 200, 44, 2
COLOURS = ("#1b6ca8", "#c8553d", "#4f772d", "#7b4b94")


class Stroke(NamedTuple):
    """A polyline."""

    points: list[Point]
    colour: str
    width: float


class Word(NamedTuple):
    """A text whose baseline starts at `at`."""

    at: Point
    text: str
    colour: str


def panels(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, list[Point]]]:
    """From a trainer's log history to panels of series; what was never logged is left out."""
    wanted = {
        "reward": {"paid": "grace/paid"},
        "parts of the reward": {
            "contrastive": "grace/contrastive",
            "consistency": "grace/consistency",
            "hard": "grace/hard",
        },
        "tokens per rationale": {"mean": "completions/mean_length"},
        "share cut off, nearest is own": {"cut off": "grace/cut_off", "top 1": "grace/top1"},
        "held-out retrieval": {"nDCG@10": "eval_ndcg_at_10", "accuracy@1": "eval_accuracy_at_1"},
        "held-out reward": {"InfoNCE": "eval_infonce"},
    }
    found = {}
    for title, names in wanted.items():
        series = {
            label: [(float(e["step"]), float(e[key])) for e in history if key in e] for label, key in names.items()
        }
        if kept := {label: points for label, points in series.items() if points}:
            found[title] = kept
    return found


def layout(found: Mapping[str, Mapping[str, list[Point]]]) -> tuple[tuple[int, int], list[Stroke], list[Word]]:
    """Size of the page, and what is on it."""
    strokes: list[Stroke] = []
    words: list[Word] = []
    for index, (title, series) in enumerate(found.items()):
        left, top = (index % COLUMNS) * WIDTH, (index // COLUMNS) * HEIGHT
        _panel(left, top, title, series, strokes, words)
    rows = -(-len(found) // COLUMNS)
    return (WIDTH * min(COLUMNS, max(1, len(found))), HEIGHT * max(1, rows)), strokes, words


def _panel(
    left: int, top: int, title: str, series: Mapping[str, list[Point]], strokes: list[Stroke], words: list[Word]
) -> None:
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1e-9)
    box = left + PAD, top + 28, left + WIDTH - 12, top + HEIGHT - 26

    def place(point: Point) -> Point:
        across, up = (point[0] - x0) / (x1 - x0), (point[1] - y0) / (y1 - y0)
        return box[0] + across * (box[2] - box[0]), box[3] - up * (box[3] - box[1])

    strokes.append(Stroke([(box[0], box[1]), (box[0], box[3]), (box[2], box[3])], "#888888", 1))
    words.append(Word((left + PAD, top + 14), title, "#222222"))
    words += [Word((left + 2, box[1] + 8), f"{y1:.3g}", "#555555"), Word((left + 2, box[3]), f"{y0:.3g}", "#555555")]
    words += [Word((box[0], box[3] + 14), f"{x0:g}", "#555555"), Word((box[2] - 24, box[3] + 14), f"{x1:g}", "#555555")]
    for number, (label, points) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        strokes.append(Stroke([place(p) for p in points], colour, 1.5))
        words.append(Word((box[2] - 80, box[1] + 10 + 12 * number), label, colour))


def svg(found: Mapping[str, Mapping[str, list[Point]]]) -> str:
    """The page as SVG."""
    (width, height), strokes, words = layout(found)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="10">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for stroke in strokes:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in stroke.points)
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{stroke.colour}" stroke-width="{stroke.width}"/>'
        )
    for word in words:
        lines.append(f'<text x="{word.at[0]:.1f}" y="{word.at[1]:.1f}" fill="{word.colour}">{escape(word.text)}</text>')
    return "\n".join([*lines, "</svg>", ""])


def write(history: Sequence[Mapping[str, float]], folder: Path) -> list[Path]:
    """`curves.svg`, and `curves.png` where Pillow is installed; nothing when nothing was logged."""
    found = panels(history)
    if not found:
        return []
    written = [folder / "curves.svg"]
    written[0].write_text(svg(found), encoding="utf-8")
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        return written
    size, strokes, words = layout(found)
    scale = 2  # for dense screens
    image = Image.new("RGB", (size[0] * scale, size[1] * scale), "#ffffff")
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        points = [(x * scale, y * scale) for x, y in stroke.points]
        if len(points) > 1:
            draw.line(points, fill=stroke.colour, width=round(stroke.width * scale))
    for word in words:
        draw.text((word.at[0] * scale, (word.at[1] - 10) * scale), word.text, fill=word.colour, font_size=10 * scale)
    image.save(folder / "curves.png")
    return [*written, folder / "curves.png"]
