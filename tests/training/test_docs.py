"""What the docs promise about tests is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_paper_page_names_exists() -> None:
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    defined = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 20
    assert named <= defined, named - defined


def test_the_reward_maths_knows_no_trainer() -> None:
    for name in ("rewards", "advantages", "presets", "metrics", "pooling", "heldout"):
        source = (ROOT / "training" / "grace_training" / f"{name}.py").read_text(encoding="utf-8")
        assert "import trl" not in source
        assert "from trl" not in source
