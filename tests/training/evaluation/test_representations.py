"""The shelf promises that what was embedded once is found again, whole, by any process, after any kill."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grace.prompt import Prompter
from grace_training.evaluation.representations import DamagedShelf, Shelf, key_of

HIDDEN = 5


def key(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=15).digest() + b"\1"


def row(number: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((2, HIDDEN), dtype=np.float32)


def shelf(folder: Path) -> Shelf:
    return Shelf(folder, poolings=("mean", "input"), hidden=HIDDEN)


def put(on: Shelf, numbers: list[int]) -> None:
    for n in numbers:
        on.add(key(n), row(n), input_tokens=n, rationale_ids=range(n % 7), stood_in=n % 4)


def same(found: Shelf, numbers: list[int]) -> None:
    places = found.find([key(n) for n in numbers])
    assert (places >= 0).all()
    for i, pooling in enumerate(found.poolings):
        out = np.zeros((len(numbers), HIDDEN), np.float32)
        found.vectors(places, pooling, out)
        np.testing.assert_array_equal(out, np.array([row(n)[i] for n in numbers]).reshape(-1, HIDDEN))
    input_tokens, tokens, stood_in = found.counts(places)
    assert input_tokens.tolist() == numbers
    assert tokens.tolist() == [n % 7 for n in numbers]
    assert stood_in.tolist() == [n % 4 for n in numbers]
    for n, place in zip(numbers, places, strict=True):
        assert found.rationale_ids(place) == list(range(n % 7))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(0, 400), max_size=40), min_size=1, max_size=5), st.randoms())
def test_what_any_writer_kept_is_found_by_all_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, writers: list[list[int]], random: object
) -> None:
    folder = tmp_path_factory.mktemp("shelf")
    for numbers in writers:
        with shelf(folder) as own:
            put(own, numbers)
            own.flush()
            same(own, sorted(set(numbers)))
    wanted = [n for numbers in writers for n in numbers]
    random.shuffle(wanted)  # type: ignore[attr-defined]
    with shelf(folder) as everything:
        same(everything, wanted)
        assert everything.find([key(1000)])[0].tolist() == [-1, -1]


@pytest.mark.parametrize("suffix", [".rows", ".keys", ".ids"])
@pytest.mark.parametrize("lost", [1, 37, 1000])
def test_a_tail_that_was_cut_off_is_missing_and_nothing_else_is(tmp_path: Path, suffix: str, lost: int) -> None:
    with shelf(tmp_path) as writer:
        put(writer, list(range(100)))
    (file,) = tmp_path.glob(f"*{suffix}")
    with file.open("rb+") as stream:
        stream.truncate(max(0, file.stat().st_size - lost))
    if suffix == ".ids":
        return  # written first: a kill that cuts it left no row behind, which the other two cases show
    with shelf(tmp_path) as again:
        found = again.find([key(n) for n in range(100)])[:, 0] >= 0
        kept = int(found.sum())
        assert found[:kept].all()
        assert kept < 100
        same(again, list(range(kept)))


def test_a_damaged_row_is_an_error_and_never_a_vector(tmp_path: Path) -> None:
    with shelf(tmp_path) as writer:
        put(writer, [1, 2, 3])
    (file,) = tmp_path.glob("*.rows")
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with shelf(tmp_path) as again:
        same(again, [2, 3])
        with pytest.raises(DamagedShelf, match="row 0"):
            same(again, [1])


def test_a_shelf_of_another_form_is_refused(tmp_path: Path) -> None:
    with shelf(tmp_path) as writer:
        put(writer, [1])
    with pytest.raises(DamagedShelf, match="another"):
        Shelf(tmp_path, poolings=("mean",), hidden=HIDDEN)


def test_everything_that_decides_the_vectors_is_in_the_key(prompter: Prompter) -> None:
    job = prompter.job("The harbour froze.")
    others = [
        prompter.job("The harbour froze!"),
        prompter.job("The harbour froze.", role="query"),
        prompter.job("The harbour froze.", mode="direct"),
        prompter.job("The harbour froze.", max_rationale_tokens=3),
        prompter.job("The harbour froze.", temperature=0.5),
        replace(job, sample=1),
        replace(job, pooled_from=job.pooled_from + 1),
    ]
    assert len({key_of(job), *map(key_of, others)}) == 8
    assert key_of(prompter.job("The harbour froze.")) == key_of(job)
