"""Parsers, codecs and prompts against bytes that nobody would write."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from grace.representation import Rationale, Representation, Segment
from grace_server import records
from grace_server.index.manifest import Doubt, Manifest
from tests.hostile.mutation import mutated
from tests.hostile.targets import MANIFEST, RECORD, SEEDS, TARGETS, digested, prompter

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


COUNTS = st.integers(0, 2**31 - 1)
RATIONALES = st.builds(
    Rationale,
    text=st.text(),
    thinking=st.text(),
    understanding=st.text(),
    token_ids=st.lists(COUNTS, max_size=5).map(tuple),
    finish_reason=st.sampled_from(["stop", "length"]),
)


@st.composite
def representations(draw: st.DrawFn) -> Representation:
    """Any that an engine could make, and many that none would."""
    width = draw(st.integers(0, 4))
    row = st.lists(st.floats(width=32), min_size=width, max_size=width)
    source = st.sampled_from(["input", "template", "rationale"])
    segments = draw(st.lists(st.builds(Segment, source, COUNTS, COUNTS, COUNTS), max_size=5))
    sums = [draw(row) for _ in segments]
    return Representation(
        segments=tuple(segments),
        sums=np.array(sums, np.float32).reshape(len(segments), width),
        last=np.array(draw(row), np.float32),
        rationale=draw(st.none() | RATIONALES),
        prompt_tokens=draw(COUNTS),
        input_tokens=draw(COUNTS),
        completion_tokens=draw(COUNTS),
        truncated=draw(st.booleans()),
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


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_search_starts_behind_the_door(name: str) -> None:
    refused = [seed for seed in SEEDS[name] if not TARGETS[name](seed)]
    assert len(refused) == (name == "vectors"), "every seed is taken, but for the numbers that are none"
    assert max(map(len, SEEDS[name])) < 1000, "none is cut off by the short search below"


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """Something valid with a few bytes changed, taken out or put in."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@given(made=representations())
def test_what_is_read_from_the_cache_is_what_was_written(made: Representation) -> None:
    found = records.decode(records.encode(made), prompter().job("A text."))
    arrays = ("sums", "last")
    for field in fields(Representation):
        kept, given_out = getattr(made, field.name), getattr(found, field.name)
        if field.name in arrays:
            assert (given_out.shape, given_out.tobytes()) == (kept.shape, kept.tobytes())
        elif field.name != "cached":
            assert given_out == kept, field.name
    assert found.cached


@given(at=st.integers(0, len(digested(RECORD)) - 1), flipped=st.integers(1, 255))
def test_a_record_with_one_byte_changed_is_damaged(at: int, flipped: int) -> None:
    record = bytearray(digested(RECORD))
    record[at] ^= flipped
    with pytest.raises(records.Damaged):
        records.decode(bytes(record), prompter().job("A text."))


@pytest.mark.parametrize("told", ["[" * 100_000, '{"segments": []}', "null", "1" * 5000])
def test_a_record_that_says_something_else_is_damaged_though_its_digest_fits(told: str) -> None:
    arrays = {"sums": np.zeros((0, 2), np.float32), "last": np.zeros(2, np.float32)}
    with pytest.raises(records.Damaged):
        records.decode(digested(save(arrays, {"grace": told})), prompter().job("A text."))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("written_at", value) for value in (math.nan, math.inf, -1, 2**63, "now", None)),
        *(("fingerprint", value) for value in (7, ["ab"], {})),
        *(("rows", value) for value in (1.0, True, None, "1")),
        ("sha256", None),
    ],
)
def test_a_manifest_with_a_value_of_another_kind_is_not_believed(key: str, value: Any) -> None:
    manifest = json.loads(MANIFEST.to_json())
    with pytest.raises(Doubt):
        Manifest.from_json(json.dumps({**manifest, key: value}).encode())


@pytest.mark.parametrize(("at", "text"), [(38, "C"), (47, "\xfa"), (5562, "\xa5"), (6875, "\x87")])
def test_a_snapshot_whose_database_sqlite_cannot_read_is_refused_by_name(at: int, text: str) -> None:
    """A format that it does not know, and texts that are none: SQLite does not call either damage."""
    [seed] = map(json.loads, SEEDS["snapshot"])
    assert not TARGETS["snapshot"](as_bytes({**seed, "over": [[at, text]]}))


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
    flags = ["-max_total_time=5", "-max_len=1000", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, "-m", "tests.hostile.fuzz", "all", str(corpus), *flags]
    # By way of a shell: a process begins with the peak of memory of the one that starts it, which libFuzzer limits to
    # 2 GiB, and by now the tests have passed that.
    shell = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done" in done.stderr
