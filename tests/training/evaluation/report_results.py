"""A results folder with everything a report can show, made up: no figure in it was measured.

`python -m tests.training.evaluation.report_results FOLDER` writes it, to look at the report of it.
"""

from __future__ import annotations

import json
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grace_training.evaluation.results import (
    GENERAL,
    OWN,
    Group,
    Items,
    Leak,
    Run,
    Sample,
    TaskRecord,
    write_items,
    write_run,
)

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)"> & "quotes" | pipes `ticks` https://example.invalid/x'
TASKS = (
    ("SciFact", "Retrieval", "ndcg_at_10"),
    ("NFCorpus", "Retrieval", "ndcg_at_10"),
    ("SciDocsRR", "Reranking", "map_at_1000"),
    ("TwentyNewsgroupsClustering", "Clustering", "v_measure"),
    ("TwitterSemEval2015", "PairClassification", "max_ap"),
    ("Banking77Classification", "Classification", "accuracy"),
    ("STSBenchmark", "STS", "cosine_spearman"),
    ("SummEval", "Summarization", "cosine_spearman"),
)
LEVELS = {
    "base": 0.30, "reasoning": 0.33, "contrastive": 0.43, "simcse": 0.40,
    "grace-supervised": 0.47, "grace-unsupervised": 0.42, "peer": 0.38,
}  # fmt: skip
N = 120


def embedding_run(out: Path, row: str, *, shift: float = 0.0, failing: bool = False, **changes: Any) -> Path:
    """One run of embedding tasks, with items, whose scores are near the row's level plus `shift`."""
    run = Run(
        label=row,
        row=row,  # type: ignore[arg-type]
        model=f"runs/{row}",
        fingerprint=_fingerprint(row, changes),
        representation="direct" if row in ("base", "contrastive", "simcse") else "mean",
        budget=None if row in ("base", "contrastive", "simcse") else 256,
        backbone="Qwen/Qwen2.5-1.5B-Instruct",
        benchmark="MTEB(eng, v1)",
        expected=tuple(task for task, _, _ in TASKS),
        machine="2 cores of a processor that does not exist",
        started_at="2026-11-23T18:00:00+00:00",
        texts_per_s=61.5,
        rationale_tokens=120.0,
    )
    run = replace(run, **changes)
    folder = out / "results" / row / _variant(run)
    for number, (task, category, metric) in enumerate(TASKS):
        if failing and number == 1:
            reason = f"OSError: the corpus could not be fetched from {HOSTILE}"
            run = run.with_task(TaskRecord(task, category, metric, "failed", reason=reason))
            continue
        items = made_items(task, metric, LEVELS[row] + shift, seed=run.seed or 0)
        leaks = (Leak("train: triples.jsonl", 12, 240),) if row == "contrastive" and number == 6 else ()
        from grace_training.evaluation.report_resample import score

        record = TaskRecord(task, category, metric, "done", score=score(items), samples=N, leaks=leaks)
        run = run.with_task(record)
        write_items(items, folder)
    return write_run(run, folder)


def _fingerprint(row: str, changes: dict[str, Any]) -> str:
    training = sorted((name, value) for name, value in changes.items() if name in _TRAINING)
    return f"{zlib.crc32(repr(('base' if row == 'reasoning' else row, training)).encode()):08x}" * 4


_TRAINING = ("preset", "algorithm", "consistency_weight", "hard_weight", "seed", "step")


def _variant(run: Run) -> str:
    told = (run.preset, run.algorithm, run.consistency_weight, run.hard_weight, run.seed, run.step, run.representation,
            run.budget, run.backbone.replace("/", "_"), run.label)  # fmt: skip
    return "-".join(str(part) for part in told if part is not None)


def made_items(task: str, metric: str, level: float, *, seed: int = 0, count: int = N) -> Items:
    """Items whose statistic is near `level`; a task's noise is the same in every run, but for a little of its own."""
    shared, own = np.random.default_rng(zlib.crc32(task.encode())), np.random.default_rng(seed + int(level * 1e6))
    noise = shared.normal(0, 0.2, count) + own.normal(0, 0.05, count)
    ids = tuple(f"{task}-{i}" for i in range(count))
    match metric:
        case "cosine_spearman" if task == "STSBenchmark":
            gold = shared.normal(0, 1, count)
            cosine = level * gold + np.sqrt(1 - level**2) * (shared.normal(0, 1, count) + own.normal(0, 0.1, count))
            group = Group("default", "spearman", ids, predicted={"cosine": tuple(cosine)}, gold=tuple(gold))
        case "max_ap":
            gold = (shared.random(count) < 0.4).astype(float)
            alike = 3 * level * gold + noise * 5
            group = Group("default", "max_ap", ids, predicted={"cosine_scores": tuple(alike)}, gold=tuple(gold))
        case "v_measure":
            gold = shared.integers(0, 5, count)
            right = own.random(count) < level + 0.25
            clusters = np.where(right, gold, own.integers(0, 5, count)).astype(float)
            group = Group(
                "default", "v_measure", ids, predicted={"cluster": tuple(clusters)}, gold=tuple(map(float, gold))
            )
        case _:
            group = Group("default", "mean", ids, values=tuple(np.clip(level + noise, 0, 1)))
    return Items(task, metric, (group,))


def general_run(out: Path, row: str, levels: dict[str, float], **changes: Any) -> Path:
    """One run of general ability."""
    run = Run(
        label=row, row=row, model=f"runs/{row}", fingerprint="", representation=None, budget=None,  # type: ignore[arg-type]
        backbone="Qwen/Qwen2.5-1.5B-Instruct", benchmark="general", expected=(*levels, "humaneval"),
    )  # fmt: skip
    run = replace(run, **changes)
    folder = out / "results" / row / f"general-{_variant(run)}"
    reason = "runs code that the model wrote: allow it with --run-generated-code"
    run = run.with_task(TaskRecord("humaneval", GENERAL, "pass@1", "failed", reason=reason))
    for task, level in levels.items():
        rng, own = np.random.default_rng(zlib.crc32(task.encode())), np.random.default_rng(zlib.crc32(row.encode()))
        ids = tuple(map(str, range(200)))
        if task == "perplexity":
            tokens = rng.integers(50, 100, 200).astype(float)
            nats = tokens * (np.log(level) + rng.normal(0, 0.1, 200) + own.normal(0, 0.005, 200))
            group = Group("default", "perplexity", ids, predicted={"nats": tuple(nats), "tokens": tuple(tokens)})
        else:
            values = tuple(((rng.random(200) + own.normal(0, 0.02, 200)) < level).astype(float))
            group = Group("default", "mean", ids, values=values)
        from grace_training.evaluation.general_tasks import TASKS as GENERAL_TASKS
        from grace_training.evaluation.report_resample import score

        metric = GENERAL_TASKS[task].metric
        items = Items(task, metric, (group,))
        write_items(items, folder)
        run = run.with_task(TaskRecord(task, GENERAL, metric, "done", score=score(items), samples=200))
    return write_run(run, folder, name="general.json")


def write_everything(out: Path) -> Path:
    """Every kind of run, and both analyses."""
    embedding_run(out, "base")
    embedding_run(out, "reasoning")
    grace = {"method": "grace", "objective": "supervised", "preset": "paper", "algorithm": "grpo"}
    weights = {"consistency_weight": 0.2, "hard_weight": 0.2}
    for seed in (1, 2, 3):
        embedding_run(out, "contrastive", seed=seed, step=1000, shift=0.004 * seed)
        embedding_run(out, "simcse", seed=seed, step=1000, shift=0.004 * seed)
        shift = 0.003 * seed
        embedding_run(out, "grace-supervised", seed=seed, step=1000, shift=shift, failing=seed == 2, **grace, **weights)
    embedding_run(out, "grace-unsupervised", seed=1, step=1000, **{**grace, "objective": "unsupervised"}, **weights)
    embedding_run(out, "peer", label="BM25", representation=None, budget=None, backbone="")
    for step, tokens, shift in ((200, 60.0, -0.1), (600, 95.0, -0.03)):
        for row in ("grace-supervised", "grace-unsupervised"):
            said = (Sample("document", "The ruins lie at 2,430 m.", f"Step {step}: {HOSTILE}", int(tokens)),)
            embedding_run(
                out, row, seed=1, step=step, shift=shift, rationale_tokens=tokens, samples=said, **grace, **weights
            )
    for number, algorithm in enumerate(("remax", "reinforce++", "dapo")):
        settings = {**grace, "algorithm": algorithm}
        embedding_run(out, "grace-supervised", seed=1, step=1000, shift=-0.02 + 0.01 * number, **settings, **weights)
    for consistency in (0.0, 0.2, 0.4):
        for hard in (0.0, 0.2, 0.4):
            if (consistency, hard) not in ((0.2, 0.2), (0.4, 0.0)):
                shift = -0.2 * abs(hard - 0.2) - 0.05 * abs(consistency - 0.2)
                other = {"consistency_weight": consistency, "hard_weight": hard}
                embedding_run(out, "grace-supervised", seed=1, step=1000, shift=shift, **grace, **other)
    for name, shift in (("rationale", -0.02), ("input", -0.04), ("last", -0.09)):
        settings = {"representation": name, "budget": 256}
        embedding_run(out, "reasoning", shift=shift, **settings)
    for budget, shift in ((16, -0.06), (32, -0.05), (64, -0.03), (128, -0.01)):
        embedding_run(
            out, "reasoning", shift=shift, budget=budget, rationale_tokens=budget * 0.9, texts_per_s=4000 / budget
        )
    query = Sample("query", "which country has the ruins of Machu Picchu", f"Peru.\n\n{HOSTILE}", 14)
    text = Sample("document", "The ruins lie at 2,430 m.", "The text names an altitude.", 12)
    embedding_run(out, "reasoning", samples=(query, text))
    six = {
        "gsm8k": 0.32,
        "mmlu": 0.55,
        "triviaqa": 0.18,
        "fever": 0.67,
        "bbh": 0.25,
        "perplexity": 20.0,
        "rationales": 0.97,
    }
    general_run(out, "base", six)
    lost = {**dict.fromkeys(six, 0.0), "fever": 0.5, "perplexity": 900.0}
    general_run(out, "contrastive", lost)
    general_run(out, "grace-supervised", {**six, "gsm8k": 0.325, "perplexity": 20.5}, preset="paper", algorithm="grpo")
    analyses(out / "results" / "base" / "shown" / OWN / "analysis")
    return out


def analyses(folder: Path) -> None:
    """Both files of analyses, in the form that report_analysis.py describes."""
    share = [0.0, 0.25, 0.5, 0.75, 1.0]
    curves = [
        {"kind": kind, "order": order, "share": share, "value": values,
         "low": [v - 0.03 for v in values], "high": [v + 0.03 for v in values]}
        for kind, order, values in (
            ("deletion", "attribution", [0.8, 0.6, 0.5, 0.42, 0.3]),
            ("deletion", "random", [0.8, 0.72, 0.63, 0.5, 0.3]),
            ("insertion", "attribution", [0.3, 0.6, 0.7, 0.77, 0.8]),
            ("insertion", "random", [0.3, 0.45, 0.58, 0.7, 0.8]),
        )
    ]  # fmt: skip
    faithfulness = {
        "format": 1, "label": "made up", "texts": 200, "measure": "cosine to the query", "curves": curves,
        "areas": [{"kind": "deletion", "order": "attribution", "against": "random",
                   "difference": -0.07, "low": -0.1, "high": -0.04}],
        "carried": [{"name": "SciFact nDCG@10", "with": 0.61, "without": 0.55, "low": 0.03, "high": 0.09}],
        "notes": [HOSTILE],
    }  # fmt: skip
    bins = [
        {"from": 0.5 + 0.1 * i, "to": 0.6 + 0.1 * i, "signal": 0.55 + 0.1 * i, "outcome": 0.3 + 0.12 * i,
         "low": 0.2 + 0.12 * i, "high": 0.4 + 0.12 * i, "count": 40 + i}
        for i in range(5)
    ]  # fmt: skip
    calibration = {
        "format": 1, "label": "made up", "queries": 210, "rationales": 4, "signal": "consistency",
        "outcome": "top hit is relevant", "ece": 0.07, "spearman": 0.31, "low": 0.12, "high": 0.48,
        "bins": bins, "notes": [],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in (("faithfulness", faithfulness), ("calibration", calibration)):
        (folder / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")


if __name__ == "__main__":
    write_everything(Path(sys.argv[1]))
