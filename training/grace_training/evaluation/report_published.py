"""The paper's published figures, as data: `published.json` names their source. None of them was measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True, slots=True)
class Published:
    """One printed row."""

    backbone: str  # hub id
    row: str  # ours, or an algorithm's name
    scores: Mapping[str, float]  # by category or task, in points
    average: float  # as printed


@cache
def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return loaded


def source() -> Mapping[str, str]:
    """Where the figures come from."""
    found: Mapping[str, str] = _data()["source"]
    return found


def backbones() -> tuple[str, ...]:
    """The paper's, as hub ids."""
    return tuple(dict.fromkeys(row["backbone"] for row in _data()["mteb"]))


def matching(backbone: str) -> str | None:
    """The paper's backbone that a name means: its hub id, or the last part of it."""
    last = backbone.rstrip("/").rpartition("/")[2].lower()
    return next((name for name in backbones() if name.lower().rpartition("/")[2] == last), None)


def mteb(backbone: str, row: str) -> Published | None:
    """The row of the MTEB tables (56 English tasks)."""
    return _find("mteb", backbone, row)


def algorithm(backbone: str, name: str) -> Published | None:
    """The row of the algorithm ablation (a subset of 16 tasks)."""
    return _find("algorithms", backbone, name)


def general(backbone: str, row: str) -> Published | None:
    """The row of the table of general ability."""
    return _find("general", backbone, row)


def category_sizes() -> Mapping[str, int]:
    """Tasks per category of the MTEB tables."""
    found: Mapping[str, int] = _data()["category_sizes"]["mteb"]
    return found


def rationale_tokens() -> list[tuple[int, int]]:
    """(step, tokens) of the case study: one web page's rationale over training."""
    return [(point["step"], point["tokens"]) for point in _data()["rationale_tokens"]]


def _find(table: str, backbone: str, row: str) -> Published | None:
    name = matching(backbone)
    for printed in _data()[table]:
        if printed["backbone"] == name and row == printed.get("row", printed.get("algorithm")):
            return Published(printed["backbone"], row, printed["scores"], printed["average"])
    return None
