"""Probes promise the inner product of every pooled state, however the scheduler cuts, orders and repeats the rows."""

from __future__ import annotations

import random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.engines.probes import Probes

HIDDEN = 4


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_dots_equal_the_plain_way_under_chunks_and_pre_emption(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed % 2**31)
    probes = Probes(torch.device("cpu"))
    prompts = {str(i): rng.randint(2, 12) for i in range(3)}
    starts = {key: rng.randint(0, prompt - 1) for key, prompt in prompts.items()}
    vectors = {key: torch.randn(HIDDEN) for key in ("0", "1")}  # the third has no probe
    # One more row than the prompt has: the token that vLLM always samples may run, too.
    states = {key: torch.randn(prompt + 1, HIDDEN) for key, prompt in prompts.items()}
    done = dict.fromkeys(prompts, 0)
    while any(done[key] < len(states[key]) for key in prompts):
        rows, some, positions = [], [], []
        for key in rng.sample(sorted(prompts), rng.randint(1, 3)):
            if key in vectors:
                vector = vectors[key].numpy().tobytes()
                probes.admit(key, vector, start=starts[key], prompt_tokens=prompts[key])
            if done[key] == len(states[key]):
                continue
            if done[key] and rng.random() < 0.2:
                done[key] = 0
            count = rng.randint(1, len(states[key]) - done[key])
            rows.append((key, count))
            positions += range(done[key], done[key] + count)
            some.append(states[key][done[key] : done[key] + count])
            done[key] += count
        if rows:
            padding = torch.full((2, HIDDEN), float("nan"))
            probes.add(torch.cat([*some, padding]), torch.tensor([*positions, 0, 0]), rows)
    held = probes.held()
    assert held.keys() == vectors.keys()
    for key, vector in vectors.items():
        torch.testing.assert_close(held[key], states[key][starts[key] : -1] @ vector, rtol=1e-5, atol=1e-5)
    probes.release(["0", "1", "never seen"])
    assert not probes.held()
