"""The page of benchmarks says what the stored results say."""

from __future__ import annotations

import random
import re
import statistics

import pytest

from bench._arrivals import poisson, quantile, slope
from bench._sections import SECTIONS, Row, Section, lookup
from bench._shared import interval
from bench.page import PAGE, RESULTS, SECOND, line, page, read, table


def test_tables_are_those_of_the_results():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, read(RESULTS), read(SECOND)) == text, "python bench/page.py"


def test_a_changed_figure_changes_the_page():
    results = read(RESULTS)
    results["one_pass"]["one_pass_vs_plain"] = 0.123
    text = PAGE.read_text(encoding="utf-8")
    assert "| 0.123 |" in page(text, results, {})
    assert "| 0.123 |" not in text


def test_a_goal_that_is_missed_is_called_so():
    row = Row("speed", "a.b", "{:.2f}", (">=", 0.9))
    assert "missed" not in line(row, {"a": {"b": 0.95}})
    assert "missed" in line(row, {"a": {"b": 0.85, "b_interval": [0.8, 0.9]}})


def test_a_second_machine_has_a_column_its_own_source_and_misses_by_itself():
    section = Section("speed", "speed", "python speed", (Row("speed", "a", "{:.2f}", (">=", 0.9)), Row("size", "b")))
    about = {"command": "python speed", "commit": "1234567", "date": "2026-01-01", "python": "3.11", "versions": {}}
    first = {"about": {**about, "machine": "this"}, "a": 0.95, "b": 1.0}
    second = {"about": {**about, "machine": "that"}, "a": 0.85, "a_interval": [0.8, 0.9]}
    shown = table(section, first, second)
    assert "| speed | 0.95 |  | >= 0.90 | 0.85 (0.80 to 0.90), **missed** |" in shown
    assert "| size | 1 |  |  |  |" in shown
    assert [name in shown for name in ("commit 1234567, 2026-01-01, this", "On the EPYC: `python speed`")] == [True] * 2
    assert "EPYC" not in table(section, first)


def test_a_table_whose_figures_older_results_lack_is_not_measured_yet():
    section = next(section for section in SECTIONS if section.name == "stages")
    assert table(section, {"about": {}, "one_more_ms": 1.0}) == table(section, None)


def test_every_section_has_its_place_once():
    text = PAGE.read_text(encoding="utf-8")
    for section in SECTIONS:
        assert text.count(f"<!-- {section.name} -->") == text.count(f"<!-- /{section.name} -->") == 1


def test_arrivals_are_poisson():
    moments = poisson(50, 200, random.Random(0))
    assert moments == sorted(moments)
    assert moments[-1] < 200
    per_second = [sum(s <= m < s + 1 for m in moments) for s in range(200)]
    assert statistics.mean(per_second) == pytest.approx(50, rel=0.05)
    assert statistics.variance(per_second) == pytest.approx(50, rel=0.3)  # equal to the mean, unlike a metronome's 0


def test_a_quantile_is_a_value_that_was_seen():
    values = [float(v) for v in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1.0)) == (50.0, 99.0, 100.0)
    assert quantile([7.0], 0.99) == 7.0
    assert quantile([], 0.5) is None


def test_a_slope_is_per_hour_and_a_burst_does_not_tilt_it():
    seconds = [60.0 * i for i in range(30)]
    rng = random.Random(0)
    values = [100 + 0.01 * s + rng.gauss(0, 0.5) for s in seconds]
    values[10] += 500
    found = slope(seconds, values)
    assert found.low <= 36 <= found.high
    assert found.per_hour == pytest.approx(36, rel=0.1)
    flat = slope(seconds, [100 + rng.gauss(0, 0.5) for _ in seconds])
    assert flat.low <= 0 <= flat.high


def test_the_interval_of_a_median_holds_it_as_often_as_it_says():
    rng = random.Random(1)
    held = 0
    for trial in range(100):
        low, high = interval([rng.gauss(3.0, 1.0) for _ in range(25)], seed=trial)
        held += low <= 3.0 <= high
    assert held >= 88


# Figures of one measurement: sizes, counts, what a whole run came to, the worst of many, and exact answers.
ONCE = re.compile(
    r"rows|minutes|rests|failed|growing|recomputed\w*|scores_recomputed|other_statuses|worked_at\..*|\w+_cpu_share_at\..*|\w+_spearman|"
    r"(\w+\.)?(ingest_per_s|build_s|start_s|memory_over_vectors|rebuild_longest_ms)|memory_vs_two_model|\w*cosine\w*|"
    r"capacity_per_s|goodput_past_capacity|refusals_with_retry_after|let_in_and_in_time|rss_\w+_capacity|"
    r"client_cpu_share|rss_mib_\w+|slots_\w+|kv_blocks_\w+|rationale_tokens_mean"
)


@pytest.mark.parametrize(
    "section", [s for s in SECTIONS if s.results in read(SECOND)], ids=lambda section: section.name
)
def test_a_figure_of_several_rounds_has_its_interval(section: Section) -> None:
    found = read(SECOND)[section.results]
    for row in section.rows:
        if lookup(found, row.key) is not None and not ONCE.fullmatch(row.key):
            assert lookup(found, f"{row.key}_interval"), row.label
