"""Sizing: the plan adds up, and the simulated queue agrees with queueing theory where theory has an answer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grace.rationale import read
from grace.representation import Segment
from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.settings import CollectionSettings
from grace_server.index.writing import Embedded
from grace_server.sizing import plan as planning
from grace_server.sizing.__main__ import main
from grace_server.sizing.plan import Corpus, Measured, Wanted, plan
from grace_server.sizing.simulation import Load, Outcome, Service, simulate

ONE_AT_A_TIME = Service(1, tokens_per_s=1, text_tokens_per_s=1, max_running_requests=1)
TEXTS = 20_000


def run(service: Service, load: Load, texts: int = TEXTS) -> Outcome:
    return simulate(service, load, texts=texts, warm_up=texts // 10)


@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_one_text_at_a_time_is_the_queue_of_the_textbook(rho: float) -> None:
    found = run(ONE_AT_A_TIME, Load(rho, tokens=1))
    assert found.mean_wait_s == pytest.approx(rho / (1 - rho), rel=0.1)
    assert found.mean_s == pytest.approx(1 / (1 - rho), rel=0.1)
    assert found.p50_s == pytest.approx(math.log(2) / (1 - rho), rel=0.1)
    assert found.p99_s == pytest.approx(math.log(100) / (1 - rho), rel=0.1)
    assert found.busy == pytest.approx(rho, rel=0.1)


def test_several_engines_before_one_queue_wait_as_erlang_says() -> None:
    engines, offered = 3, 2.4
    queue = offered**engines / math.factorial(engines) / (1 - offered / engines)
    chance = queue / (sum(offered**k / math.factorial(k) for k in range(engines)) + queue)
    found = run(replace(ONE_AT_A_TIME, replicas=engines), Load(offered, tokens=1))
    assert found.mean_wait_s == pytest.approx(chance / (engines - offered), rel=0.1)


def test_a_bounded_queue_refuses_the_share_of_the_formula() -> None:
    rho, places = 0.9, 5
    share = (1 - rho) * rho**places / (1 - rho ** (places + 1))
    found = run(replace(ONE_AT_A_TIME, max_queued_requests=places - 1), Load(rho, tokens=1))
    assert found.refused_share == pytest.approx(share, rel=0.1)


def test_a_batch_that_shares_one_rate_answers_as_processor_sharing_does() -> None:
    found = run(Service(1, tokens_per_s=1, text_tokens_per_s=1), Load(0.7, tokens=1))
    assert found.mean_s == pytest.approx(1 / 0.3, rel=0.1)
    assert found.mean_wait_s == 0


def test_an_engine_that_is_never_full_takes_each_text_its_own_time() -> None:
    found = run(Service(1, tokens_per_s=math.inf, text_tokens_per_s=10), Load(100, tokens=20))
    assert found.mean_s == pytest.approx(2, rel=0.1)
    assert found.p50_s == pytest.approx(2 * math.log(2), rel=0.1)


def test_bursts_multiply_the_wait_by_their_size() -> None:
    rho, burst = 0.6, 8
    found = run(ONE_AT_A_TIME, Load(rho, tokens=1, burst=burst))
    assert found.mean_s == pytest.approx(burst / (1 - rho), rel=0.1)


def test_admission_by_tokens_keeps_large_texts_out_and_the_queue_in_order() -> None:
    # Two texts of about half the budget fit together; with so few tokens it is as if one could run at a time.
    tight = Service(1, tokens_per_s=10, text_tokens_per_s=10, max_running_tokens=5, max_queued_requests=50)
    found = run(tight, Load(5, tokens=1), texts=20_000)
    never = math.exp(-5)  # the share of exponential texts over the budget
    assert found.refused_share >= 0.9 * never
    assert found.mean_wait_s > 0
    assert run(replace(tight, max_running_tokens=1e9), Load(5, tokens=1), texts=20_000).mean_wait_s == 0


def test_who_waits_too_long_leaves() -> None:
    patient = run(ONE_AT_A_TIME, Load(1.5, tokens=1), texts=5_000)
    hasty = run(replace(ONE_AT_A_TIME, queue_timeout_s=2), Load(1.5, tokens=1), texts=20_000)
    assert patient.timed_out == 0
    assert hasty.timed_out / 18_000 == pytest.approx(1 / 3, abs=0.08)  # what the engine cannot do
    assert hasty.mean_wait_s <= 2


def test_who_promises_answers_within_a_deadline_keeps_it_and_wastes_nothing() -> None:
    # Ten times what the engine can do; without a deadline the queue grows without bound.
    service = Service(1, tokens_per_s=100, text_tokens_per_s=100, max_running_requests=8, deadline_s=2)
    found = run(service, Load(1_000, tokens=1))
    assert found.p99_s <= 2
    assert found.timed_out == 0
    assert found.refused_share > 0.5  # the small ones fit in more often: less than nine in ten
    assert found.busy == pytest.approx(1, abs=0.02)
    lone = run(replace(service, tokens_per_s=0.1, text_tokens_per_s=0.1), Load(1e-4, tokens=1), texts=500)
    assert lone.refused_share < 0.02


def test_equal_seeds_give_equal_results() -> None:
    load = Load(0.9, tokens=1, burst=3, seed=5)
    assert run(ONE_AT_A_TIME, load, 2_000) == run(ONE_AT_A_TIME, load, 2_000)
    assert run(ONE_AT_A_TIME, load, 2_000) != run(ONE_AT_A_TIME, replace(load, seed=6), 2_000)


CORPUS = Corpus(1e8, tokens_per_document=200, rationale_tokens=64, instruction_tokens=0, dimensions=384)
MEASURED = Measured(tokens_per_s=30_000, writes_per_s=2_600, search_ms=0.92, search_rows=1e6, engine_cost_per_h=3)
WANTED = Wanted(days=7, queries_per_s=10, query_tokens=100, memory_gib=256, disk_gib=4_000, cores=16)


def test_a_plan_adds_up() -> None:
    found = plan(CORPUS, MEASURED, WANTED)
    assert found.engine_days == pytest.approx(1e8 * 264 / 30_000 / 86_400)
    assert found.cost == pytest.approx(found.engine_days * 24 * 3)
    assert found.engines == math.ceil(found.engine_days / 7)
    assert found.write_days == pytest.approx(1e8 / 2_600 / 86_400)
    twice = plan(replace(CORPUS, documents=2e8), MEASURED, WANTED)
    assert twice.engine_days == pytest.approx(2 * found.engine_days)
    assert twice.disk_gib == pytest.approx(2 * found.disk_gib)


@pytest.mark.parametrize(
    ("changed", "decides"),
    [
        ({"rationale_tokens": 2_000}, "embedding"),
        ({"tokens_per_document": 1, "rationale_tokens": 0, "segments": 0, "held": "flat"}, "index memory"),
        ({"tokens_per_document": 1, "rationale_tokens": 0, "segments": 500, "held": "sq8"}, "storage"),
    ],
)
def test_the_step_that_asks_for_the_most_machines_is_named(changed: dict[str, object], decides: str) -> None:
    assert plan(replace(CORPUS, **changed), MEASURED, WANTED).bottleneck == decides


def test_flat_search_grows_with_the_rows_and_cells_with_their_root() -> None:
    small = replace(CORPUS, documents=1e6)
    large = replace(CORPUS, documents=1e8)
    for held, ratio in (("flat", 100), ("ivf", 10)):
        cores = [planning.search_cores(replace(c, held=held), MEASURED, WANTED) for c in (small, large)]
        assert cores[1] / cores[0] == pytest.approx(ratio)


def test_disk_is_what_a_real_index_takes(tmp_path: Path) -> None:
    hidden, segments, documents = 384, 8, 1_000
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(5_000)]
    text = [" ".join(rng.choice(words, 160)) for _ in range(documents)]
    why = " ".join(words[:50])
    catalog = Catalog(tmp_path, Edges())
    collection = catalog.create("a", CollectionSettings(), dimensions=hidden, fingerprint="f")
    for start in range(0, documents, 500):
        some = range(start, start + 500)
        collection.upsert([{"id": f"{i}", "text": text[i], "metadata": {"year": i}} for i in some])
        collection.embedded(
            [
                Embedded(
                    label=waiting.label,
                    vector=rng.standard_normal(hidden, dtype=np.float32),
                    rationale=read(why, (1,) * 64, "stop"),
                    thinking_open=False,
                    truncated=False,
                    segments=tuple(Segment("input", 0, 1, 1) for _ in range(segments)),
                    sums=rng.standard_normal((segments, hidden), dtype=np.float32),
                    precision="float32",
                )
                for waiting in collection.pending(limit=500)
            ],
            fingerprint="f",
        )
    path = collection.store.path
    catalog.close()
    size = sum(len(t) for t in text) / documents
    tokens = size / planning.BYTES_PER_TOKEN
    corpus = Corpus(1, tokens, len(why) / planning.BYTES_PER_TOKEN, 0, hidden, segments)
    assert path.stat().st_size / documents == pytest.approx(planning.document_bytes(corpus), rel=0.15)


def test_the_command_prints_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--tokens-per-s", "30000", "--documents", "1e6", "1e10"]) == 0
    table = capsys.readouterr().out
    assert "| documents | 1,000,000 | 10,000,000,000 |" in table
    assert "what decides" in table
    flags = ["--tokens-per-s", "30000", "--text-tokens-per-s", "500", "--texts-per-s", "400", "--texts", "3000"]
    assert main(["queue", *flags, "--replicas", "1", "8"]) == 0
    one, eight = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert float(one[3].replace(",", "")) > float(eight[3].replace(",", ""))


def test_a_figure_that_cannot_be_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--tokens-per-s", "0"]) == 2
    assert "tokens_per_s must be above 0" in capsys.readouterr().err
