"""Small SVG plots of the results, the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PLOTS = {  # results file: what its plot shows
    "growth": "Milliseconds a text against the length of text and rationale, the batch, the corpus",
    "load": "Goodput and latency against offered rate",
    "peers": "Texts a second of each",
}
GROWTH = {
    "input_words": "words of the text",
    "rationale_tokens": "tokens of the rationale",
    "batch": "texts at once",
    "corpus": "texts of the corpus (mode direct)",
}
ARMS = {"one_pass": "one pass", "plain": "plain vLLM, no vector", "two_model": "two models"}
PEERS = {
    "grace": "GRACE",
    "sentences": "sentence-transformers\noffline",
    "sentences_http": "sentence-transformers\nbehind FastAPI",
    "vllm": "vLLM's pooling server",
    "infinity": "infinity",
}


def draw(results: dict[str, dict[str, Any]], folder: Path) -> None:
    """One file for each results file that has a plot."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    style = {"svg.hashsalt": "grace", "svg.fonttype": "path", "font.size": 8, "axes.grid": True, "grid.alpha": 0.3}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    plots: dict[str, Callable[[Any, Any], Any]] = {"load": load, "growth": growth, "peers": peers}
    with plt.rc_context(style):
        for name, plot in plots.items():
            if name in results:
                figure = plot(plt, results[name])
                figure.savefig(folder / f"benchmarks-{name}.svg", metadata={"Date": None}, bbox_inches="tight")
                plt.close(figure)


def load(plt: Any, results: dict[str, Any]) -> Any:
    """Goodput, and latency of the answered, against offered rate."""
    curve = results["curve"]
    offered = [point["offered_per_s"] for point in curve]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6))
    left.plot(offered, [point["goodput_per_s"] for point in curve], marker=".", label="goodput")
    if all("worked_per_s" in point for point in curve):
        left.plot(offered, [point["worked_per_s"] for point in curve], marker=".", label="what no cache answers")
    left.axvline(results["capacity_per_s"], color="grey", linewidth=0.8, linestyle="--", label="capacity")
    left.set(xlabel="offered requests/s", ylabel="answers in time/s", xscale="log", ylim=(0, None))
    left.legend()
    for key, label in (("ms_p50", "answers, p50"), ("ms_p99", "answers, p99"), ("refusal_ms_p99", "refusals, p99")):
        points = [(x, point[key]) for x, point in zip(offered, curve, strict=True) if point[key] is not None]
        right.plot(*zip(*points, strict=True), marker=".", label=label) if points else None
    right.axvline(results["capacity_per_s"], color="grey", linewidth=0.8, linestyle="--")
    right.set(xlabel="offered requests/s", ylabel="ms", xscale="log", yscale="log")
    right.legend()
    return figure


def growth(plt: Any, results: dict[str, Any]) -> Any:
    """Milliseconds a text along each axis, of each arm."""
    figure, axes = plt.subplots(1, len(GROWTH), figsize=(9, 2.2))
    for panel, (key, label) in zip(axes, GROWTH.items(), strict=True):
        for arm, points in results[key].items():
            at, middle = [point["at"] for point in points], [point["ms_per_text"] for point in points]
            low = [max(0.0, m - point["interval"][0]) for m, point in zip(middle, points, strict=True)]
            high = [max(0.0, point["interval"][1] - m) for m, point in zip(middle, points, strict=True)]
            panel.errorbar(at, middle, yerr=[low, high], marker=".", capsize=2, label=ARMS[arm])
        panel.set(xlabel=label, ylim=(0, None), xscale="log" if key == "batch" else "linear")
    axes[0].set(ylabel="ms a text")
    axes[2].legend()  # where the curves leave room
    figure.tight_layout()
    return figure


def peers(plt: Any, results: dict[str, Any]) -> Any:
    """Texts a second of every peer, both ways of asking."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.2), sharey=False)
    for panel, way, label in zip(
        axes, ("batches", "singles"), ("32 texts a request", "one text a request"), strict=True
    ):
        found = {PEERS[arm]: results[k] for arm in PEERS if (k := f"{way}_{arm}_texts_per_s") in results}
        panel.barh(list(found), list(found.values()), color=["C0"] + ["0.7"] * (len(found) - 1))
        panel.invert_yaxis()
        panel.set(xlabel=f"texts/s, {label}")
        panel.grid(visible=False, axis="y")
    figure.tight_layout()
    return figure
