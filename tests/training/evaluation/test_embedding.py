"""One pass per text gives every representation and every budget; a text that was embedded is not embedded again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from grace import Checkpoint, Grace
from grace.pooling import POOLINGS
from grace.prompt import Prompter
from grace_training.errors import BadRecipe
from grace_training.evaluation import embedding
from grace_training.evaluation.embedding import Embedder, Options, Shard
from grace_training.evaluation.representations import Shelf
from grace_training.evaluation.results import REPRESENTATIONS
from tests.support.models import SENTENCES
from tests.training.evaluation.conftest import Bench

TEXTS = [f"{n}. {SENTENCES[n : n + 50]}" for n in range(40)]


def test_every_representation_comes_from_one_pass_per_text(bench: Bench) -> None:
    embedder = bench.embedder()
    vectors = {name: embedder.vectors(TEXTS, "document", name) for name in REPRESENTATIONS}
    assert bench.calls == len(TEXTS)
    answers = bench.grace.represent(TEXTS)
    for pooling in POOLINGS:
        np.testing.assert_allclose(vectors[pooling], [a.vector(pooling) for a in answers], atol=1e-6)
    np.testing.assert_array_equal(vectors["direct"], vectors["input"])
    assert embedder.tally.texts == len(TEXTS)


def test_direct_alone_writes_nothing_and_is_the_input_of_the_other(bench: Bench) -> None:
    direct = bench.embedder(bench.shelf(("mean",)), mode="direct")
    assert direct.budget is None
    np.testing.assert_allclose(
        direct.vectors(TEXTS, "query", "direct"), bench.embedder().vectors(TEXTS, "query", "direct"), atol=1e-6
    )


def test_a_text_is_embedded_once_over_calls_repeats_and_processes(bench: Bench) -> None:
    first = bench.embedder()
    doubled = first.vectors([*TEXTS, *TEXTS], "document", "mean")
    np.testing.assert_array_equal(doubled[: len(TEXTS)], doubled[len(TEXTS) :])
    first.vectors(reversed(TEXTS), "document", "last")
    first.shelf.close()
    np.testing.assert_array_equal(bench.embedder().vectors(TEXTS, "document", "mean"), doubled[: len(TEXTS)])
    assert bench.calls == len(TEXTS)
    bench.embedder().vectors(TEXTS[:1], "query", "mean")
    assert bench.calls == len(TEXTS) + 1


def test_shards_embed_every_text_once_between_them(bench: Bench) -> None:
    counts = []
    for number in range(3):
        part = bench.embedder(shard=Shard(number, 3))
        part.places(TEXTS, "document")
        part.shelf.close()
        counts.append(part.tally.texts)
    assert sum(counts) == len(TEXTS)
    assert min(counts) > 0
    whole = bench.embedder()
    whole.vectors(TEXTS, "document", "mean")
    assert whole.tally.texts == 0


@pytest.mark.parametrize("budget", [4, 36])
def test_shards_under_budgets_leave_the_vectors_that_one_run_makes(bench: Bench, tmp_path: Path, budget: int) -> None:
    """Both where rationales are cut and where they are short enough to be kept."""
    options = {"budget": budget, "written_at": 40}
    texts = [*TEXTS, "", *TEXTS[::-1]]
    plain = bench.embedder(bench.shelf(), **options)
    expected = {name: plain.vectors(texts, "document", name) for name in REPRESENTATIONS}
    lengths = plain.shelf.counts(plain.places(texts, "document"))[1]
    assert {4: max(lengths) == 4, 36: max(lengths) < 36}[budget]

    bench.folder = tmp_path / "sharded"
    embedded = []
    for number in range(2):
        part = bench.embedder(shard=Shard(number, 2), **options)
        before = bench.calls
        places = part.places(texts, "document")
        assert len(places) == len(texts)
        part.shelf.close()
        embedded.append(bench.calls - before)
    assert min(embedded) > 0
    before = bench.calls
    whole = bench.embedder(**options)
    for name in REPRESENTATIONS:
        np.testing.assert_array_equal(whole.vectors(texts, "document", name), expected[name])
    assert bench.calls == before


def test_a_text_falls_to_one_shard_under_every_budget(bench: Bench) -> None:
    shard = Shard(0, 2)
    for text in TEXTS:
        jobs = [bench.embedder(budget=budget).job(text, "document") for budget in (4, 8, 16)]
        assert len({job in shard for job in jobs}) == 1


def test_the_vector_of_a_text_that_was_left_to_another_shard_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="another shard"):
        bench.embedder(shard=Shard(0, 2)).vectors(TEXTS, "document", "mean")


def test_many_vectors_are_handed_out_as_a_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bench.embedder().vectors(TEXTS, "document", "mean")
    monkeypatch.setattr(embedding, "_IN_MEMORY", 100)
    mapped = bench.embedder().vectors(TEXTS, "document", "mean")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, expected)
    assert not list(bench.folder.rglob(".vectors-*"))


def test_an_empty_text_is_counted_where_the_mean_stands_in(bench: Bench) -> None:
    embedder = bench.embedder()
    vectors = embedder.vectors(["", "words"], "document", "input")
    np.testing.assert_array_equal(vectors[0], embedder.vectors([""], "document", "mean")[0])
    assert embedder.tally.stood_in["input"] == 1
    assert embedder.tally.stood_in["mean"] == 0


@pytest.fixture(scope="module")
def reference(model_folder: Path) -> Iterator[Grace]:
    with Grace.load(model_folder, engine="transformers", dtype="float32") as loaded:
        yield loaded


@pytest.mark.parametrize("budget", [1, 2, 5, 16])
def test_a_cut_rationale_is_the_one_written_under_that_budget(reference: Grace, tmp_path: Path, budget: int) -> None:
    def embedder(name: str, options: Options) -> Embedder:
        shelf = Shelf(tmp_path / name, poolings=POOLINGS, hidden=reference.checkpoint.hidden_size)
        return Embedder(
            reference.checkpoint, reference.prompter, lambda: reference, shelf, options, show_progress=False
        )

    texts = [*TEXTS[:10], ""]
    own = embedder("own", Options(budget=budget))
    cut = embedder("cut", Options(budget=budget, written_at=20))
    for name in POOLINGS:
        a, b = own.vectors(texts, "document", name), cut.vectors(texts, "document", name)
        assert (a * b).sum(axis=1).min() >= 0.9999
    assert own.tally.rationale_tokens == cut.tally.rationale_tokens


def test_only_greedy_rationales_are_cut(bench: Bench) -> None:
    with pytest.raises(BadRecipe, match="greedily"):
        bench.embedder(budget=2, written_at=8, temperature=1.0)


CHILD = """
import sys
from pathlib import Path
from grace import Checkpoint, Grace
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_training.evaluation.embedding import Embedder
from grace_training.evaluation.representations import Shelf

checkpoint = Checkpoint.load(sys.argv[1])
prompter = Prompter(checkpoint)
shelf = Shelf(Path(sys.argv[2]), poolings=("mean",), hidden=checkpoint.hidden_size)
with Grace(checkpoint, prompter, lambda: FakeEngine(prompter, seconds_per_text=0.5)) as grace:
    Embedder(checkpoint, prompter, lambda: grace, shelf, show_progress=False).places(
        (f"text number {n}" for n in range(100_000)), "document"
    )
"""


def test_a_kill_in_mid_corpus_costs_a_few_texts(model_folder: Path, bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    with subprocess.Popen([sys.executable, "-c", CHILD, str(model_folder), str(folder)]) as child:
        deadline = time.monotonic() + 120
        while sum(f.stat().st_size for f in folder.glob("*.keys")) < 16 * 600 and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
    with Shelf(folder, poolings=("mean",), hidden=bench.checkpoint.hidden_size) as shelf:
        kept = len(shelf)
        assert kept >= 600
        resumed = bench.embedder(shelf)
        texts = [f"text number {n}" for n in range(kept + 10)]
        vectors = resumed.vectors(texts, "document", "mean")
        assert bench.calls == 10
        np.testing.assert_allclose(vectors, [a.vector("mean") for a in bench.grace.represent(texts)], atol=1e-6)


def test_what_stands_in_the_batch_does_not_change_a_text(model_folder: Path) -> None:
    """On the engine that serves, in the precision that GPUs serve in."""
    checkpoint = Checkpoint.load(model_folder)
    assert Prompter(checkpoint)
    with Grace.load(model_folder, dtype="bfloat16", kv_cache_gib=0.2) as grace:
        together = grace.encode(TEXTS, mode="direct")
        alone = np.stack([grace.encode(text, mode="direct") for text in TEXTS[::8]])
    assert (together[::8] * alone).sum(axis=1).min() >= 0.9999
