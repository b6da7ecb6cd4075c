"""Faithfulness and calibration promise figures that a model made for the purpose would get, and only that one."""

from __future__ import annotations

import argparse
import gzip
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace.representation import Rationale, Representation, Role, Segment
from grace.sentences import sentence_ends
from grace_training.errors import BadData
from grace_training.evaluation import calibration, explanations, faithfulness, report_analysis
from grace_training.evaluation.calibration import auroc, calibrate, calibration_error, reliability
from grace_training.evaluation.cli import parser
from grace_training.evaluation.faithfulness import ORDERS, SHARES, area_difference, derangement, ranked
from grace_training.evaluation.judged import Judged, load, ndcg
from grace_training.evaluation.report_page import Plot

HIDDEN = 64
WORDS = ["river", "bread", "mason", "harbour", "engine", "violin", "letter", "garden"]


def word_vector(word: str) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(HIDDEN)


def read(text: str, role: Role, rationale: str | None = None) -> Representation:
    """A reader whose states are its words', so that what it is given is all that matters."""
    ends = sentence_ends(text, limit=16)
    segments, sums, start = [], [], 0
    for end in ends:
        words = text[start:end].replace(".", " ").split()
        segments.append(Segment("input", start, end, max(1, len(words))))
        sums.append(sum((word_vector(word) for word in words), np.zeros(HIDDEN)))
        start = end
    written = rationale if rationale is not None else " ".join(text.replace(".", " ").split()[:3])
    segments.append(Segment("rationale", 0, len(written), max(1, len(written.split()))))
    sums.append(sum((word_vector(word) for word in written.split()), np.zeros(HIDDEN)))
    stacked = np.stack(sums).astype(np.float32)
    given = Rationale(written, "", written, (1,), "stop")
    return Representation(tuple(segments), stacked, stacked[-1], given, 1, 1, 1, False)


def represent(texts: Sequence[str], role: Role, rationales: Sequence[str] | None = None) -> list[Representation]:
    return [read(text, role, rationales[i] if rationales else None) for i, text in enumerate(texts)]


def made_up(documents: int = 24) -> Judged:
    """Each document has one sentence with the words of its query, among sentences of equal length without them."""
    rng = np.random.default_rng(0)
    queries, corpus = {}, {}
    for i in range(documents):
        query = f"topic{i} item{i} thing{i}"
        others = [" ".join(rng.choice(WORDS, 3)) + ". " for _ in range(7)]
        others.insert(int(rng.integers(0, 8)), query + ". ")
        queries[f"q{i}"], corpus[f"d{i}"] = query, "".join(others).strip()
    return Judged("made up", queries, corpus, {f"q{i}": {f"d{i}": 1} for i in range(documents)})


def test_a_reader_of_words_is_faithful_and_chance_is_not() -> None:
    judged = made_up()
    cases = faithfulness.cases(judged, represent, most=20)
    assert len(cases) == 20
    for case in cases:
        assert "".join(case.sentences) in judged.corpus.values()
        best = int(np.argmax(case.contributions))
        assert case.sentences[best].strip(" .") == case.query
    curves = {(curve.kind, curve.order): curve for curve in faithfulness.curves(cases, represent)}
    assert all(curve.values.shape == (20, len(SHARES)) for curve in curves.values())
    removed = area_difference(curves["deletion", "attribution"], curves["deletion", "random"])
    assert removed.interval.high < 0, "taking out what contributes hurts more than taking out anything"
    put_back = area_difference(curves["insertion", "attribution"], curves["insertion", "random"])
    assert put_back.interval.low > 0
    same = area_difference(curves["deletion", "random"], curves["deletion", "random"])
    assert (same.mean, same.interval.low, same.interval.high) == (0, 0, 0)


@given(seed=st.integers(0, 2**32 - 1), order=st.sampled_from(ORDERS))
def test_what_is_left_are_whole_sentences_in_their_order(seed: int, order: faithfulness.Order) -> None:
    rng = np.random.default_rng(seed)
    sentences = tuple(f"Sentence {i} it is. " for i in range(rng.integers(2, 16)))
    case = faithfulness.Case("q", sentences, rng.standard_normal(len(sentences)), rng.random(len(sentences)) + 1, 0.5)
    first_to_last = ranked(case, order, rng)
    assert sorted(first_to_last.tolist()) == list(range(len(sentences)))
    removed, kept = (faithfulness._left(case, kind, first_to_last) for kind in ("deletion", "insertion"))
    for without, only in zip(removed, kept, strict=True):
        both = [[s for s in sentences if s.strip() in text] for text in (without, only)]
        assert sorted(both[0] + both[1]) == sorted(sentences)
        assert both[0]
        assert both[1]
        assert "".join(both[0]).strip() == without


def test_what_the_rationale_carries_is_seen_with_it_without_it_and_with_anothers() -> None:
    judged = made_up()

    def hinted(texts: Sequence[str], role: Role, rationales: Sequence[str] | None = None) -> list[Representation]:
        # Only the rationale names the topic: the text itself has been robbed of it.
        answers = []
        for i, text in enumerate(texts):
            topic = next(word for word in text.replace(".", " ").split() if word.startswith("topic"))
            written = rationales[i] if rationales else topic
            answers.append(read(" ".join(w for w in text.split() if w.strip(".") in WORDS) or "it", role, written))
        return answers

    found = faithfulness.carried(judged, hinted)
    assert found.rationale.mean() == pytest.approx(1.0)
    assert found.mean.mean() > found.input.mean()
    assert found.mean.mean() > found.shuffled.mean()


@given(count=st.integers(2, 50), seed=st.integers(0, 2**32 - 1))
def test_nobody_keeps_a_rationale_of_its_own(count: int, seed: int) -> None:
    found = derangement(count, np.random.default_rng(seed))
    assert sorted(found.tolist()) == list(range(count))
    assert (found != np.arange(count)).all()


def test_a_signal_that_tells_is_confidence_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(400)
    right = rng.random(400) < truth
    telling = calibrate(0.9 + 0.05 * truth, right)
    assert telling.auroc > 0.7
    assert telling.is_confidence
    assert telling.gain.low > 0
    silent = calibrate(rng.random(400), right)
    assert silent.auroc_interval.low < 0.5 < silent.auroc_interval.high
    assert not silent.is_confidence
    backwards = calibrate(-truth, right)
    assert not backwards.is_confidence
    with pytest.raises(ValueError, match="nothing can be told apart"):
        calibrate(truth, np.ones(400, dtype=bool))


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.booleans()), min_size=4, max_size=40))
def test_auroc_counts_pairs_and_bins_hold_every_query(items: list[tuple[float, bool]]) -> None:
    signal, right = np.array([s for s, _ in items]), np.array([r for _, r in items])
    bins = reliability(signal, right)
    assert sum(each.count for each in bins) == len(items)
    assert 0 <= calibration_error(bins) <= 1
    if 0 < right.sum() < len(right):
        pairs = [(a > b) + 0.5 * (a == b) for a in signal[right] for b in signal[~right]]
        assert auroc(signal, right) == pytest.approx(np.mean(pairs))


def test_predictions_that_hold_have_no_error() -> None:
    predicted = np.repeat([0.25, 0.75], 40)
    right = np.tile([True, False, False, False] * 10 + [True, True, True, False] * 10, 1)
    assert calibration_error(reliability(predicted, right, bins=2)) == pytest.approx(0)
    assert calibration_error(reliability(1 - predicted, right, bins=2)) == pytest.approx(0.5)


def test_queries_that_the_model_agrees_on_are_those_it_answers() -> None:
    judged = made_up()
    rng = np.random.default_rng(0)

    def sample(texts: Sequence[str], role: Role, temperature: float) -> list[Representation]:
        if temperature == 0:
            return represent(texts, role)
        # Of every other query the rationales wander, and lead astray.
        return [
            read(text, role, " ".join(rng.choice(WORDS, 12)) if int(text.split()[0][5:]) % 2 else text)
            for text in texts
        ]

    observed = calibration.observe(judged, sample, rationales=4, temperature=0.7)
    consistency = observed.signals["consistency"]
    assert consistency[::2].min() > consistency[1::2].max()
    assert observed.right[::2].mean() > observed.right[1::2].mean()


def test_ndcg_of_the_best_ranking_is_one_and_of_none_zero() -> None:
    gains = np.array([0.0, 3.0, 1.0, 0.0])
    assert ndcg(np.array([1, 2, 0, 3]), gains) == pytest.approx(1)
    assert ndcg(np.array([2, 1, 0, 3]), gains) == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
    assert ndcg(np.array([0, 1]), np.zeros(2)) == 0


def test_a_folder_is_read_and_a_bad_one_is_named(tmp_path: Path) -> None:
    shipped = load(None)
    assert len(shipped.queries) == 100
    cut = shipped.cut(queries=10, documents=20)
    assert (len(cut.queries), len(cut.corpus)) == (10, 20)
    assert all(document in cut.corpus for judged in cut.relevant.values() for document in judged)
    with pytest.raises(BadData, match=r"no corpus\.jsonl"):
        load(tmp_path)
    with gzip.open(tmp_path / "corpus.jsonl.gz", "wt") as file:
        file.write(json.dumps({"id": "1", "title": "T", "text": "x"}) + "\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"id": "a", "text": "y"}) + "\n")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\na\t1\tmuch\n")
    with pytest.raises(BadData, match=r"qrels\.tsv:2"):
        load(tmp_path)
    (tmp_path / "qrels.tsv").write_text("a\t1\t0\n")
    with pytest.raises(BadData, match="no query has a relevant document"):
        load(tmp_path)
    (tmp_path / "qrels.tsv").write_text("a\t1\t2\n")
    assert load(tmp_path).corpus == {"1": "T x"}


def test_the_files_are_what_the_report_reads(tmp_path: Path) -> None:
    judged = made_up()
    cases = faithfulness.cases(judged, represent, most=8)
    carried = faithfulness.carried(judged, represent)
    found = explanations.faithfulness_of("m", judged, judged, cases, faithfulness.curves(cases, represent), carried)
    explanations._write(tmp_path, "faithfulness", found)
    rng = np.random.default_rng(0)
    observed = calibration.Observed({"consistency": rng.random(30)}, rng.random(30) < 0.5)
    options = argparse.Namespace(rationales=4, temperature=0.7)
    explanations._write(tmp_path, "calibration", explanations.calibration_of("m", judged, observed, options))
    faithful, calibrated = report_analysis.sections([tmp_path])
    assert (faithful.name, calibrated.name) == ("faithfulness", "calibration")
    plots = [block for block in faithful.blocks if isinstance(block, Plot)]
    assert len(plots) == 2
    assert all(order in plots[0].svg for order in ORDERS)


def test_nothing_that_is_not_measured_is_written() -> None:
    judged = made_up()
    found = explanations.faithfulness_of("m", judged, judged, [], [], faithfulness.carried(judged, represent))
    assert (found["curves"], found["areas"], len(found["carried"])) == ([], [], 3)
    parsed = parser().parse_args(["explanations", "--only", "carried"])
    assert parsed.only == ["carried"]
