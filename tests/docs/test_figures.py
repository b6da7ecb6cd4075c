"""Figures in the sentences of the pages are those of `bench/results`; tables of benchmarks.md are made from them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from bench.page import RESULTS, SECOND, read
from grace_server.sizing.__main__ import parser
from grace_training.tiny.choices import CHOICES
from grace_training.tiny.pretrain import LENGTH, ROWS
from tests.docs.pages import ROOT, numbers, page, rounds_to
from tests.hostile import long_runs

MEASURED = read(RESULTS) | {f"epyc/{name}": found for name, found in read(SECOND).items()}
PROMPT_TOKENS = 180  # of a text of `bench/http.py`, on the mean


@dataclass(frozen=True)
class Claim:
    """A sentence of a page with # for its figures, a file of results, and the figures by it."""

    page: str
    sentence: str
    results: str
    figures: Callable[[dict[str, Any]], list[float]]


def soak_memory(minutes: dict[str, list[float]]) -> list[float]:
    """From the third minute on, MiB: what the server's process gained; least, most, first and last of the engine's."""
    server = minutes["rss_server_mib"][3:]
    engine = [both - own for both, own in zip(minutes["rss_mib"][3:], server, strict=True)]
    return [server[-1] - server[0], min(engine), max(engine), engine[0], engine[-1]]


CLAIMS = (
    Claim(
        "benchmarks",
        "at ten times the capacity (# requests a second)",
        "load",
        lambda load: [next(point["offered_per_s"] for point in load["curve"] if point["factor"] == 10)],
    ),
    Claim(
        "benchmarks",
        "(on the EPYC # of one for the service, # for the client)",
        "epyc/load",
        lambda load: [load["curve"][-1]["service_cpu_share"], load["curve"][-1]["client_cpu_share"]],
    ),
    Claim(
        "benchmarks",
        "came to # at twice the capacity, and to refusals within # ms",
        "epyc/load_before",
        lambda load: [load["worked_at"]["2"], load["refusal_ms_p99"]],
    ),
    Claim(
        "benchmarks", "for one request (# in the run below)", "overhead", lambda overhead: [overhead["one_plain_ms"]]
    ),
    Claim(
        "benchmarks",
        "where plain vLLM takes # ms for a text",
        "epyc/overhead_same",
        lambda overhead: [1000 / overhead["short_plain_texts_per_s"]],
    ),
    Claim(
        "benchmarks",
        "# slots and blocks at rest, # vectors and # scores recomputed, none off, p99 # ms",
        "epyc/soak",
        lambda soak: [
            soak["slots_at_rest_most"] + soak["kv_blocks_share_at_rest_most"],
            soak["recomputed"],
            soak["scores_recomputed"],
            soak["ms_p99"],
        ],
    ),
    Claim(
        "benchmarks",
        "gained # MiB after its third minute, next to nothing of it in the last twenty; the engine's went down to # "
        "and up to # MiB, from # to #",
        "epyc/soak",
        lambda soak: soak_memory(soak["each_minute"]),
    ),
    Claim(
        "benchmarks",
        "above nothing, +# MiB an hour (# to #), which is called growing",
        "epyc/soak_before",
        lambda soak: [soak["rss_mib_per_hour"], *soak["rss_mib_per_hour_interval"]],
    ),
    Claim(
        "benchmarks",
        "memory +# MiB an hour (# to #), which is less than is called growing; # vectors and # scores recomputed",
        "epyc/soak_busy",
        lambda soak: [
            soak["rss_mib_per_hour"],
            *soak["rss_mib_per_hour_interval"],
            soak["recomputed"],
            soak["scores_recomputed"],
        ],
    ),
    Claim(
        "benchmarks",
        "did not get the last documents embedded: # slots were in use at one",
        "epyc/soak_busy",
        lambda soak: [soak["slots_at_rest_most"]],
    ),
    Claim(
        "training",
        "(# rounds of # steps, seconds of CPU time, one thread): # s plain, # s GRACE, of which # s write the query "
        "and the negative; **#** (95 %: # to #) without these (target #), # (# to #) with them.",
        "train_step",
        lambda step: [
            step["rounds"],
            step["steps_per_round"],
            step["plain_step_s"],
            step["grace_step_s"],
            step["extra_generation_s"],
            step["ratio_net"],
            *step["ratio_net_interval"],
            step["target"],
            step["ratio_gross"],
            *step["ratio_gross_interval"],
        ],
    ),
    Claim(
        "search",
        "lexical #, dense #, hybrid #; BM25 is",
        "retrieval_cranfield",
        lambda found: [found[f"cranfield_{way}"] for way in ("lexical", "dense", "hybrid")],
    ),
    Claim(
        "evaluation",
        "(# texts, rationales of # tokens, # rounds in turns): embedding through `grace-eval`, with its shelf on disk, "
        "runs at # of the offline engine's texts per second",
        "eval",
        lambda run: [run["texts"], run["rationale_tokens"], run["rounds"], run["eval_vs_engine"]],
    ),
    Claim(
        "explanations",
        "hidden size #, a query of # and documents of # segments, ten hits in one process, searches with and without "
        "`explain` in turns: a plain search takes # ms at the median, explaining adds # (# from float16 sums), the "
        "centred view # more",
        "explain",
        lambda run: [
            run["hidden_size"],
            run["query_segments_float32"],
            run["document_segments_float32"],
            run["plain_ms_float32"],
            run["explaining_adds_ms_float32"],
            run["explaining_adds_ms_float16"],
            run["centring_adds_ms_float32"] - run["explaining_adds_ms_float32"],
        ],
    ),
    *(
        Claim(
            "explanations",
            f"| `{kept}` | # |",
            "explain",
            lambda run, kept=kept: [run[f"bytes_per_document_{kept}"]],  # type: ignore[misc]
        )
        for kept in ("float32", "float16", "none")
    ),
    Claim(
        "deployment",
        "Two replicas did # texts a second, one #: **# times** as many.",
        "replicas",
        lambda run: [run["two_texts_per_s"], run["one_texts_per_s"], run["two_over_one"]],
    ),
    Claim(
        "scale",
        "1.5 GB a million | # % at 50,000, 30 % at a million | # ms at 50,000, 3.1 ms at a million |",
        "search",
        lambda search: [100 * (search["ivf"]["memory_over_vectors"] - 1), search["ivf"]["store_p50_ms"]],
    ),
    Claim(
        "scale",
        "36 % at 50,000, # % at a million | 0.21 ms at 50,000, # ms at a million |",
        "search_1m",
        lambda search: [100 * (search["auto"]["memory_over_vectors"] - 1), search["auto"]["store_p50_ms"]],
    ),
    Claim(
        "scale",
        "| none | # MB at 50,000; 0.4 GB a million (computed) | # ms at 50,000 |",
        "search",
        lambda search: [
            search["sq8"]["memory_over_vectors"] * 4 * search["rows"] * search["dimensions"] / 1e6,
            search["sq8"]["store_p50_ms"],
        ],
    ),
    Claim(
        "scale",
        "what was measured: # documents a second in batches of 2,000, and # ms",
        "search_1m",
        lambda search: [search["auto"]["ingest_per_s"], search["auto"]["store_p50_ms"]],
    ),
    Claim(
        "scale",
        "# texts a second offline and # over HTTP (`bench/http.py`), of # prompt and at most # rationale tokens each",
        "http",
        lambda http: [
            http["offline_texts_per_s"],
            http["http_texts_per_s"],
            PROMPT_TOKENS,
            http["rationale_tokens"],
        ],
    ),
    Claim(
        "scale",
        "rationale tokens each: # and # tokens a second",
        "http",
        lambda http: [
            round(http[f"{way}_texts_per_s"] * (PROMPT_TOKENS + http["rationale_tokens"]), -1)
            for way in ("offline", "http")
        ],
    ),
)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.page}-{claim.results}")
def test_a_figure_is_that_of_the_results(claim: Claim) -> None:
    written = numbers(page(f"docs/{claim.page}.md"), claim.sentence)
    for one, figure in zip(written, claim.figures(MEASURED[claim.results]), strict=True):
        assert rounds_to(one, figure), f"{one} is written, {figure} is in {claim.results}.json"


def test_the_choices_of_pretraining_are_worth_what_was_measured() -> None:
    found = json.loads((ROOT / "docs/results/grace-tiny-choices.json").read_text(encoding="utf-8"))
    text = page("docs/grace-tiny.md")
    [table] = re.findall(r"<!-- choices -->\n(.*?)<!-- /choices -->", text, re.DOTALL)
    rows = re.findall(r"^\| ([^|]+) \| ([\d.]+) \| ([-+][\d.]+) \| ([\d.]+) \|$", table, re.MULTILINE)
    assert [name for name, *_ in rows] == list(CHOICES) == list(found["choices"])
    for name, *written in rows:
        choice = found["choices"][name]
        figures = (choice["loss"], choice["loss"] - found["choices"]["recipe"]["loss"], choice["loss_of_mean"])
        assert all(rounds_to(one.lstrip("+"), figure) for one, figure in zip(written, figures, strict=True)), name
    corpus = found["corpus"]
    told = numbers(text, "the same # tokens in # steps") + numbers(text, "Of the corpus' # documents # are there twice")
    steps = found["tokens"] / (ROWS * LENGTH)
    for one, figure in zip(told, (found["tokens"], steps, corpus["documents"], corpus["repeated"]), strict=True):
        assert rounds_to(one, figure), (one, figure)


def test_a_plan_has_defaults_on_the_safe_side_of_what_was_measured() -> None:
    asked, measured = parser().parse_args(["plan", "--tokens-per-s", "1"]), MEASURED["search_1m"]
    assert asked.writes_per_s < measured["auto"]["ingest_per_s"]
    assert asked.search_rows == measured["rows"]
    assert asked.search_ms > measured["auto"]["store_p50_ms"]


def test_the_long_runs_against_hostile_input_are_those_of_their_results() -> None:
    shown, figures = page("docs/security.md"), json.loads(long_runs.RESULTS.read_text(encoding="utf-8"))
    assert long_runs.table(figures) in shown
    assert long_runs.placed(shown, figures) == shown
