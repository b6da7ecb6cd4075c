"""The front door says what was measured and what happens: its figures are those of the results, its examples run.

So are and do those of the pages behind it: on the bundled model, and on the API.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors import safe_open

from bench.load import SETTINGS as LOAD
from bench.page import RESULTS, SECOND, read
from grace import Checkpoint
from grace_server.settings import Settings
from grace_training.tiny import card
from tests.docs.pages import ROOT, at, blocks, commands, differs, numbers, page, rounds_to

README, API, TINY = page("README.md"), page("docs/api.md"), page("docs/grace-tiny.md")
CHECKPOINT = Checkpoint.load()
MADE = CHECKPOINT.config.provenance
SCORES = MADE["scores"]

# A sentence of the README with # for its figures, the file of bench/results they are from, and where they are in it.
MEASURED: dict[str, tuple[str, Callable[[dict[str, Any]], list[float]]]] = {
    "| rationale and vector from one pass, against plain generation | # of its throughput (# to #) |": (
        "one_pass",
        lambda one: [one["one_pass_vs_plain"], *one["one_pass_vs_plain_interval"]],
    ),
    "against plain vLLM that writes the same tokens | # ms against # ms |": (
        "overhead",
        lambda over: [over["one_plain_ms"] + over["one_more_ms"], over["one_plain_ms"]],
    ),
    "against the two models such a service otherwise runs | # times the throughput, # of the memory |": (
        "one_pass",
        lambda one: [one["one_pass_vs_two_model"], one["memory_vs_two_model"]],
    ),
    "in vLLM's pooling server, sentence-transformers, infinity | #, #, # times the texts a second |": (
        "peers",
        lambda peers: [peers[f"batches_grace_vs_{peer}"] for peer in ("vllm", "sentences", "infinity")],
    ),
    "`GRACE_DEADLINE_S=# GRACE_MAX_RUNNING_REQUESTS=#` "
    "| who is let in has an answer within # s, others are refused within # ms (p99) |": (
        "load",
        lambda load: [
            load["deadline_s"],
            (load.get("settings") or LOAD)["max_running_requests"],
            load["deadline_s"],
            load["refusal_ms_p99"],
        ],
    ),
    "and takes # GB of memory.": ("soak", lambda soak: [soak["rss_mib_last"] * 2**20 / 1e9]),
}
# The last column of the page on the bundled model, by how its rows begin.
BUNDLED: dict[str, list[float]] = {
    "plain text read": [MADE["pretraining_tokens"] / 1e6],
    "WikiText-2 perplexity (15 articles)": [SCORES["perplexity"]],
    "bits per byte": [SCORES["bits_per_byte"]],
    "STSBenchmark dev, 1,500 pairs": [SCORES[f"stsbenchmark_dev_spearman_{mode}"] for mode in ("direct", "reason")],
    "Cranfield nDCG@10": [SCORES[f"cranfield_ndcg10_{mode}"] for mode in ("direct", "reason")],
    "rationales of 300 held-out texts: well-formed": [100 * SCORES["rationales_well_formed"]],
    "ended by themselves": [100 * SCORES["rationales_ended"]],
    "with some three words in a row three times": [100 * SCORES["rationales_looping"]],
    "terms inside `<think>`": [100 * SCORES["rationale_terms_faulty"]],
    "of a text's five heaviest terms": [100 * SCORES["heaviest_terms_named"]],
    "tokens, median": [SCORES["rationale_tokens_median"]],
}
needs_shell = pytest.mark.skipif(
    None in [shutil.which(tool) for tool in ("bash", "curl", "jq")], reason="bash, curl and jq run the transcripts"
)


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    return read(RESULTS)


@pytest.mark.parametrize("sentence", MEASURED)
def test_a_figure_is_that_of_the_results(results: dict[str, dict[str, Any]], sentence: str) -> None:
    name, figures = MEASURED[sentence]
    for written, figure in zip(numbers(README, sentence), figures(results[name]), strict=True):
        assert rounds_to(written, figure), f"{written} is written, {figure} is in {name}.json"
    machine = results[name]["about"]["machine"]
    assert machine.startswith("2 cores ")
    assert machine.endswith("no GPU")


# The tables of this page are made from the archive of the runs: tests/training/test_miniature.py holds them to it.
@pytest.mark.parametrize(
    ("sentence", "arm"),
    [
        ("| +# points (# to #) with a joint gradient, half of the change kept;", "passages-joint-half"),
        ("by the reward alone +# (-# to #) |", "passages-improved"),
    ],
)
def test_what_training_brings_is_the_average_of_the_page(sentence: str, arm: str) -> None:
    rows = page("docs/miniature.md").splitlines()
    [row] = [row for row in rows if row.startswith(f"| GRACE, supervised · {arm} − With reasoning |")]
    average = row.split("|")[-2]
    written, figures = numbers(README, sentence), re.findall(r"\d+\.\d+", average)
    assert all(rounds_to(one, float(figure)) for one, figure in zip(written, figures, strict=True)), (written, average)
    assert ("[-" in average) == ("(-" in sentence)


def test_what_is_said_in_words_is_in_the_results_too(results: dict[str, dict[str, Any]]) -> None:
    load = results["load"]
    assert "ten times the requests it can answer" in README
    assert max(point["factor"] for point in load["curve"]) == 10
    assert "who is let in has an answer within" in README
    assert f"{load['let_in_and_in_time']:.2%}" == "100.00%"
    assert "ready 20 to 40 seconds after it is made" in README
    assert all(19 < found["startup"]["ready_s"] < 40 for found in (results, read(SECOND)))


def test_the_environment_takes_the_disk_it_says() -> None:
    if Path(sys.prefix) != ROOT / ".venv" or torch.version.cuda:
        pytest.skip("this is not the environment that make makes without a GPU")
    [written] = numbers(README, "The environment, `.venv`, takes # GB of disk")
    told = subprocess.run(["du", "--summarize", "--bytes", sys.prefix], capture_output=True, text=True, check=True)
    # Caches of bytecode and what else has been run there weigh something.
    assert int(told.stdout.split()[0]) / 1e9 == pytest.approx(float(written), rel=0.1)


def test_the_bundled_model_is_the_one_the_pages_speak_of() -> None:
    with safe_open(CHECKPOINT.folder / "model.safetensors", "np") as weights:
        size = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    [millions] = numbers(README, "model, of # million parameters")
    assert rounds_to(millions, size / 1e6)
    told = numbers(TINY, "is a complete GRACE checkpoint of # million parameters (# MB in bfloat16)")
    told += numbers(TINY, "It writes a rationale of up to # tokens and gives a vector of # numbers.")
    figures = [size / 1e6, CHECKPOINT.weight_bytes / 1e6, CHECKPOINT.config.max_rationale_tokens]
    for written, figure in zip(told, [*figures, CHECKPOINT.hidden_size], strict=True):
        assert rounds_to(written, figure), (written, figure)
    for stage, steps in MADE["steps"].items():
        assert f"{steps:,} steps of `{stage}` ({MADE['minutes'][stage]} minutes)" in TINY
    assert (CHECKPOINT.folder / "README.md").read_text(encoding="utf-8") == card.text(MADE, size)


def test_a_rationales_words_stand_in_the_text_as_often_as_is_said() -> None:
    [written] = numbers(TINY, "# % of a rationale's words of over three letters stand in the text")
    assert rounds_to(written, 100 * SCORES["rationale_words_found_in_text"])


@pytest.mark.parametrize("row", BUNDLED)
def test_the_page_of_the_bundled_model_has_the_figures_of_its_checkpoint(row: str) -> None:
    [last] = re.findall(rf"^\| {re.escape(row)}.*\| ([^|]+) \|$", TINY, re.MULTILINE)
    for written, figure in zip(re.findall(r"\d+(?:\.\d+)?", last), BUNDLED[row], strict=True):
        assert rounds_to(written, figure), (written, figure)


def test_the_bundled_model_falls_short_as_the_readme_says() -> None:
    assert "BM25 beats its vectors in long texts" in README
    bm25 = float(re.findall(r"Cranfield.*BM25: (\d+\.\d)", page("core/grace/models/grace-tiny/README.md"))[0])
    assert bm25 > max(SCORES["cranfield_ndcg10_direct"], SCORES["cranfield_ndcg10_reason"])
    assert "its rationales show what the model read, but hardly improve its vectors" in " ".join(README.split())
    assert SCORES["stsbenchmark_dev_spearman_reason"] < SCORES["stsbenchmark_dev_spearman_direct"]


def test_what_the_readme_names_is_there() -> None:
    [layout] = [block for block in blocks(README, "") if block.startswith("core/")]
    for folder in re.findall(r"^(\S+/) ", layout, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
    for target in re.findall(r"\bmake (\w+)  ", README):
        assert re.search(rf"^{target}:", page("Makefile"), re.MULTILINE), target
    for setting in re.findall(r"\bGRACE_(\w+)", README):
        assert setting.lower() in Settings.model_fields, setting


@needs_shell
@pytest.mark.parametrize("block", blocks(README, "console"), ids=["embed", "search"])
def test_the_readmes_transcripts_happen(served: str, block: str) -> None:
    if "fingerprint" in block:
        assert f'"fingerprint": "{CHECKPOINT.fingerprint}"' in block, "the weights changed: renew the example"
    for command in commands(block):
        assert not (wrong := differs(command.shown, command.output(served))), wrong


def test_the_readmes_shares_add_up_to_one() -> None:
    shown = json.loads(next(commands(blocks(README, "console")[0])).shown)["data"][0]
    for parts in (shown["segments"], shown["sources"]):
        assert sum(part["share"] for part in parts) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_readmes_library_example_runs(tmp_path: Path) -> None:
    example = next(code for code in blocks(README, "python") if "from grace import Grace" in code)
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    cosines, *pieces, representation = done.stdout.splitlines()
    assert len(re.findall(r"-?0\.\d+", cosines)) == 2
    assert representation.startswith("Representation(")
    assert f"Rationale(text={''.join(pieces)!r}" in representation, "what was streamed is not what was pooled"


@pytest.mark.parametrize(("text", "texts", "dimensions"), [(README, 1, 384), (API, 2, 128)], ids=["readme", "api"])
def test_the_openai_example_runs(served: str, text: str, texts: int, dimensions: int) -> None:
    example = next(code for code in blocks(text, "python") if "from openai import OpenAI" in code)
    names: dict[str, Any] = {}
    exec(compile(at(served, example).replace("client.embeddings", "answer = client.embeddings"), "page", "exec"), names)
    assert [len(item.embedding) for item in names["answer"].data] == [dimensions] * texts


@needs_shell
def test_the_answers_that_the_api_page_shows_are_given(served: str) -> None:
    embed, stream, explain = [next(commands(block)) for block in blocks(API, "console")]
    answer, error = blocks(API, "json")
    assert not (wrong := differs(answer, embed.output(served))), wrong
    assert not (wrong := differs(stream.shown, stream.output(served))), wrong
    asked = {"input": "a text", "dimensions": 999}
    assert not differs(error, httpx.post(f"{served}/embed", json=asked, timeout=60).text)
    told = json.loads(explain.output(served))
    assert sum(map(sum, told["table"])) == pytest.approx(told["score"], abs=1e-5)
    assert "whose cells add up to the score (to 1e-5" in API


@needs_shell
def test_the_api_page_names_what_a_score_is_explained_with(served: str) -> None:
    *_, explain = [next(commands(block)) for block in blocks(API, "console")]
    told = json.loads(explain.output(served))
    paragraph = API[API.index("The answer holds `score`") : API.index("What the numbers say and do not say")]
    named = set(re.findall(r"`(\w+)`", paragraph))
    general = {"object", "model", "fingerprint", "index", "pooling", "usage", "first", "second"}
    assert set(told) - general <= named
    assert set(told["second"]) <= named
    assert set(told["second"]["segments"][0]) <= named
