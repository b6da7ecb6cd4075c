"""Parsers, codecs and prompts against bytes that nobody would write."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.hostile.mutation import mutated
from tests.hostile.targets import SEEDS, TARGETS

ROOT = Path(__file__).parents[2]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**63), 2**63, 2**64, 0])
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
)
WORDS = st.sampled_from(
    [
        "field",
        "operator",
        "value",
        "conditions",
        "AND",
        "NOT",
        "in",
        "==",
        ">=",
        "meta.a",
        "id",
        "text",
        "metadata",
        "\0",
    ]
)
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=12,
)


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_bytes_break_it(name: str) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(data=st.binary(max_size=300) | VALUES.map(as_bytes) | st.sampled_from(SEEDS[name]).flatmap(damaged))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS[name]:
        run = example(data=seed)(run)
    run = example(data=b"[" * 50_000 + b"]" * 50_000)(run)
    run = example(data=b'{"a":' * 900 + b"1" + b"}" * 900)(run)
    run()


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """Something valid with a few bytes changed, taken out or put in."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@settings(deadline=None)
@given(value=VALUES, seed=st.integers(0, 2**32))
def test_json_that_is_changed_is_json(value: Any, seed: int) -> None:
    data = as_bytes(value)
    made = mutated(data, random.Random(seed))
    assert made == mutated(data, random.Random(seed)), "the same again, so that a crash can be run again"
    if made is not None:
        json.loads(made.decode("utf-8", "surrogatepass"))
    assert mutated(b"[1, ", random.Random(seed)) is None


def test_a_short_search_by_coverage_finds_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, name in enumerate(sorted(TARGETS)):
        for i, seed in enumerate(SEEDS[name]):
            (corpus / f"{name}-{i}").write_bytes(bytes([number]) + seed)
    command = [sys.executable, "-m", "tests.hostile.fuzz", "all", str(corpus), "-max_total_time=5", "-max_len=1000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
