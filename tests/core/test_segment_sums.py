"""Running sums promise to count each position once, however the scheduler cuts, orders and repeats the rows."""

from __future__ import annotations

import itertools
import random
from typing import Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.engines.host_sums import HostSums
from grace.engines.segment_sums import Pooled, SegmentSums
from grace.sentences import runs

STOP, END, VOCAB, HIDDEN, RATIONALE_SEGMENTS = 7, 8, 16, 4, 3


Kind = Literal["device", "host"]
KINDS: tuple[Kind, ...] = get_args(Kind)
both = pytest.mark.parametrize("kind", KINDS)


def make(kind: Kind, slots: int = 8) -> SegmentSums | HostSums:
    if kind == "host":
        return HostSums(
            segments=8,
            rationale_segments=RATIONALE_SEGMENTS,
            hidden_size=HIDDEN,
            stop_ids=[STOP],
            segment_end_ids=[END],
        )
    return SegmentSums(
        slots=slots,
        segments=8,
        rationale_segments=RATIONALE_SEGMENTS,
        hidden_size=HIDDEN,
        vocab_size=VOCAB,
        stop_ids=[STOP],
        segment_end_ids=[END],
        device=torch.device("cpu"),
    )


class Request:
    """A request with random states, and how the plain way would sum them."""

    def __init__(self, key: str, rng: random.Random) -> None:
        self.key = key
        self.start = rng.randint(0, 4)
        lengths = [rng.randint(1, 5) for _ in range(rng.randint(1, 4))]
        self.ends = tuple(self.start + sum(lengths[: i + 1]) for i in range(len(lengths)))
        self.prompt = self.ends[-1]
        self.ids = [rng.choice([STOP, END, 1, 2]) for _ in range(self.prompt)]  # a stop id in a prompt is a token
        self.ids += [rng.choice([END, 1, 2, 3]) for _ in range(rng.randint(0, 12))]
        self.states = torch.randn(len(self.ids) + 1, HIDDEN)
        self.done = 0

    def expected(self) -> tuple[list[int], torch.Tensor]:
        bounds = [self.start, *self.ends]
        generated = [i == END for i in self.ids[self.prompt :]]
        for length in runs(generated, limit=RATIONALE_SEGMENTS):
            bounds.append(bounds[-1] + length)
        counts = [b - a for a, b in itertools.pairwise(bounds)]
        return counts, torch.stack([self.states[a:b].sum(0) for a, b in itertools.pairwise(bounds)])


@both
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_sums_equal_the_plain_way_under_chunks_pre_emption_and_extra_steps(kind: Kind, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed % 2**31)
    requests = [Request(str(i), rng) for i in range(rng.randint(1, 6))]
    sums = make(kind)
    unfinished = list(requests)
    while unfinished:
        rng.shuffle(unfinished)  # the runner orders rows as it likes
        chosen = unfinished[: rng.randint(1, len(unfinished))]
        rows: list[tuple[str, int]] = []
        states: list[torch.Tensor] = []
        positions: list[int] = []
        ids: list[int] = []
        for request in chosen:
            if request.done and rng.random() < 0.2:
                request.done = 0  # pre-empted: everything is run again
            sums.admit({request.key: Pooled(request.start, request.prompt, request.ends)})
            count = rng.randint(1, len(request.ids) - request.done)
            rows.append((request.key, count))
            span = range(request.done, request.done + count)
            positions += span
            ids += [request.ids[i] for i in span]
            states.append(request.states[span.start : span.stop])
            request.done += count
        padding = torch.full((3, HIDDEN), float("nan"))
        where, tokens = (torch.tensor([*values, 0, 0, 0]) for values in (positions, ids))
        sums.add(torch.cat([*states, padding]), where, tokens, rows)
        unfinished = [r for r in unfinished if r.done < len(r.ids)]
    for request in requests:  # the step that runs a stop token past the end
        sums.add(request.states[-1:], torch.tensor([len(request.ids)]), torch.tensor([STOP]), [(request.key, 1)])
    for request in requests:
        counts, expected = request.expected()
        read = sums.read([request.key])[request.key]
        assert read.counts.tolist() == counts
        torch.testing.assert_close(read.sums, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(read.last, request.states[len(request.ids) - 1])


@both
def test_a_slot_given_back_starts_empty(kind: Kind) -> None:
    sums = make(kind, slots=1)
    one = Pooled(0, 2, (2,))
    for value in (1.0, 5.0):
        sums.admit({"a": one})
        sums.add(torch.full((2, HIDDEN), value), torch.arange(2), torch.zeros(2, dtype=torch.long), [("a", 2)])
        assert sums.read(["a"])["a"].sums.tolist() == [[2 * value] * HIDDEN]
        sums.release(["a", "never seen"])
        assert sums.held == 0


def test_more_requests_than_slots_are_an_error_and_not_a_wrong_sum() -> None:
    sums = make("device", slots=1)
    with pytest.raises(RuntimeError, match="2 requests for 1 free"):
        sums.admit({"a": Pooled(0, 1, (1,)), "b": Pooled(0, 1, (1,))})


@both
def test_rows_of_strangers_are_passed_over(kind: Kind) -> None:
    sums = make(kind)
    sums.admit({"a": Pooled(0, 1, (1,))})
    sums.add(torch.ones(3, HIDDEN), torch.tensor([0, 1, 0]), torch.tensor([1, 1, 1]), [("warm-up", 2), ("a", 1)])
    assert sums.read(["a", "warm-up"]).keys() == {"a"}
    assert sums.read(["a"])["a"].counts.tolist() == [1]
