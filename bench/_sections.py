"""What stands on the page of benchmarks: which figures of which file, in which words, against which goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Row:
    """A figure: where it lies in the results (dots go into dictionaries), how it is printed, and what was promised."""

    label: str
    key: str
    form: str = "{:.3g}"
    goal: tuple[Literal[">=", "<="], float] | None = None

    def met(self, value: float) -> bool | None:
        if self.goal is None:
            return None
        return value >= self.goal[1] if self.goal[0] == ">=" else value <= self.goal[1]


@dataclass(frozen=True, slots=True)
class Section:
    """A table of one results file; its name is that of the markers on the page."""

    name: str
    results: str  # without .json
    command: str  # shown where the results do not say it
    rows: tuple[Row, ...]


SEARCH_FIGURES: tuple[tuple[str, str, str, tuple[Literal[">=", "<="], float] | None], ...] = (
    ("raw FAISS, p50, ms", "raw_p50_ms", "{:.2f}", None),
    ("search against raw FAISS, p50", "store_over_raw", "{:.2f}", ("<=", 1.3)),
    ("hits with their texts, p50, ms", "documents_p50_ms", "{:.2f}", None),
    ("recall@10", "recall_at_10", "{:.4f}", (">=", 0.98)),
    ("recall@10 under a filter of 1 %", "filter_recall_at_10", "{:.4f}", (">=", 0.98)),
    ("with that filter looked up anew, p50, ms", "filter_fresh_p50_ms", "{:.1f}", None),
    ("ready vectors taken in, durable, a second", "ingest_per_s", "{:,.0f}", (">=", 5000)),
    ("build, s", "build_s", "{:.1f}", None),
    ("p99 during a rebuild against quiet", "rebuild_over_quiet_p99", "{:.2f}", ("<=", 3)),
    ("the longest search during a rebuild, ms", "rebuild_longest_ms", "{:.0f}", None),
    ("start from a checkpoint, s", "start_s", "{:.1f}", ("<=", 15)),
    ("memory against the vectors", "memory_over_vectors", "{:.2f}", ("<=", 1.6)),
)
PEERS = {
    "grace_texts_per_s": "**GRACE**, texts/s",
    "sentences_texts_per_s": "sentence-transformers offline, texts/s",
    "sentences_http_texts_per_s": "sentence-transformers behind FastAPI, texts/s",
    "vllm_texts_per_s": "vLLM's pooling server, texts/s",
    "infinity_texts_per_s": "infinity, texts/s",
    "grace_vs_sentences": "GRACE against sentence-transformers offline",
    "grace_vs_sentences_http": "GRACE against sentence-transformers behind FastAPI",
    "grace_vs_vllm": "GRACE against vLLM's pooling server",
    "grace_vs_infinity": "GRACE against infinity",
}
WAYS = {"batches": "32 texts a request", "singles": "one text a request"}
GPU_RUNS = {
    "float32": "float32",
    "pieces": "float32, prompts in pieces",
    "preemption": "float32, pre-empted",
    "v1_float32": "float32, runner V1",
    "v1_both": "float32, runner V1, in pieces and pre-empted",
    "tf32": "float32, attention in TF32",
    "bfloat16": "bfloat16",
    "both_bfloat16": "bfloat16, in pieces and pre-empted",
}
GPU_ROWS = tuple(
    Row(f"{run}: {label}", f"{part}.{key}", "{:.1e}")
    for part, run in GPU_RUNS.items()
    for label, key in (
        ("1 - cosine, the worst of 160 texts", "one_minus_cosine_max"),
        ("error of a segment's mean, the worst", "segment_sum_error_max"),
    )
)
PEER_ROWS = [
    Row(f"{how}: {label}", f"{way}_{key}", "{:.2f}" if "_vs_" in key else "{:.0f}")
    for way, how in WAYS.items()
    for key, label in PEERS.items()
]

STAGES = (
    "client and socket",
    "parsing, prompt, cache, answer",
    "queue of the service",
    "between service and engine",
    "queue of the engine",
    "steps of the model",
    "vector of the states",
)

KINDS = {"flat": "flat", "ivf": "IVF", "auto": "IVF", "hnsw": "HNSW", "sq8": "IVF of 8-bit codes, `sq8`"}
SEARCH_ROWS = (
    Row("rows of 384 dimensions", "rows", "{:,.0f}"),
    *(
        Row(f"{name}: {label}", f"{kind}.{key}", form, None if kind == "sq8" and key == "store_over_raw" else goal)
        for kind, name in KINDS.items()
        for label, key, form, goal in SEARCH_FIGURES
    ),
)

SECTIONS = (
    Section(
        "one_pass",
        "one_pass",
        "python bench/one_pass.py",
        (
            Row("plain vLLM generation, nothing pooled, texts/s", "plain_texts_per_s"),
            Row("one pass: rationale and vector, texts/s", "one_pass_texts_per_s"),
            Row("two models: vLLM, then Transformers over prompt and rationale, texts/s", "two_model_texts_per_s"),
            Row("one pass against plain generation", "one_pass_vs_plain", "{:.3f}", (">=", 0.97)),
            Row("one pass against two models", "one_pass_vs_two_model", "{:.2f}", (">=", 1.4)),
            Row("memory against two models", "memory_vs_two_model", "{:.3f}", ("<=", 0.65)),
            Row("vector after the last token, p50, ms", "vector_delay_ms_p50", "{:.2f}", ("<=", 2)),
            Row("vector after the last token, p99, ms", "vector_delay_ms_p99", "{:.2f}"),
        ),
    ),
    Section("gpu", "gpu", "python bench/gpu.py --out FOLDER", GPU_ROWS),
    Section(
        "offline",
        "offline",
        "python bench/offline.py --data ../shared/data",
        (
            Row("with rationales, texts/s", "reason_texts_per_s", "{:.0f}", (">=", 60)),
            Row("mode `direct`, texts/s", "direct_texts_per_s", "{:.0f}", (">=", 500)),
            Row("tokens of a rationale, mean", "rationale_tokens_mean", "{:.1f}"),
        ),
    ),
    Section(
        "bfloat16",
        "bfloat16",
        "python bench/bfloat16.py --data ../shared/data",
        (
            Row("with rationales, texts/s in bfloat16", "reason_bfloat16_texts_per_s", "{:.0f}"),
            Row("against float32", "reason_gain", "{:.2f}"),
            Row("mode `direct`, texts/s in bfloat16", "direct_bfloat16_texts_per_s", "{:.0f}"),
            Row("mode `direct` against float32", "direct_gain", "{:.2f}"),
            *(
                Row(f"STSBenchmark dev, Spearman x 100, {what}, {dtype}", f"{mode}_{dtype}_spearman", "{:.1f}")
                for mode, what in (("reason", "with rationales"), ("direct", "mode `direct`"))
                for dtype in ("float32", "bfloat16")
            ),
            Row("cosine of a text's two vectors, mode `direct`, least", "direct_cosine_least", "{:.4f}"),
            Row("cosine with rationales, median", "reason_cosine_median", "{:.4f}"),
            Row("cosine with rationales, least", "reason_cosine_least", "{:.4f}"),
        ),
    ),
    Section(
        "startup",
        "startup",
        "python bench/startup.py",
        (
            Row("from the start of the process to `/readyz`, s", "ready_s", "{:.1f}"),
            Row("first answer after it, ms", "first_answer_ms", "{:.0f}", ("<=", 300)),
            Row("later answers, ms", "later_answer_ms", "{:.0f}"),
        ),
    ),
    Section(
        "http",
        "http",
        "python bench/http.py",
        (
            Row("`POST /embed` against `Grace.encode`, throughput", "http_vs_offline", "{:.3f}", (">=", 0.9)),
            Row("a repeated text, from the cache, p50, ms", "cached_ms_p50", "{:.1f}", ("<=", 5)),
            Row("a repeated text, from the cache, p99, ms", "cached_ms_p99", "{:.1f}"),
        ),
    ),
    *(
        Section(
            name,
            name,
            command,
            (
                Row("one request: ms more than plain generation", "one_more_ms", "{:.1f}", ("<=", 8)),
                Row("64 callers, texts of 10 words: more time", "short_overhead", "{:+.1%}", ("<=", 0.05)),
                Row("64 callers, texts of 300 words: more time", "long_overhead", "{:+.1%}", ("<=", 0.05)),
                Row("1,000 texts in one request: more time", "batch_overhead", "{:+.1%}", ("<=", 0.05)),
                Row("between two pieces of a stream, ms", "between_pieces_ms", "{:.1f}"),
                Row("from the last piece to the vector, ms", "vector_after_last_piece_ms", "{:.1f}"),
                Row(
                    "the same in times between two pieces, one of which is the stop token's",
                    "vector_after_last_piece_steps",
                    "{:.2f}",
                    ("<=", 2),
                ),
                Row("one request: all but the model, ms", "stages_ms.all but the model", "{:.2f}", ("<=", 8)),
            ),
        )
        for name, command in (
            ("overhead", "python bench/overhead.py"),
            ("overhead_same", "python bench/overhead.py --block 128"),
            ("overhead_large", "python bench/overhead.py --large 1 --rounds 3 --batch 0 --block 128"),
        )
    ),
    Section(
        "stages",
        "overhead",
        "python bench/overhead.py",
        tuple(Row(f"{name}, ms", f"stages_ms.{name}", "{:.2f}") for name in STAGES),
    ),
    Section(
        "load",
        "load",
        "python bench/load.py",
        (
            Row("capacity (closed loop), requests/s", "capacity_per_s", "{:.1f}"),
            Row(
                "lowest goodput past capacity, as a share of the best at a lower rate, with the cache's answers",
                "goodput_past_capacity",
                "{:.2f}",
                (">=", 0.9),
            ),
            Row(
                "of that, what no cache answers: at twice the capacity, as a share of its peak",
                "worked_at.2",
                "{:.2f}",
                (">=", 0.9),
            ),
            Row("the same at four times", "worked_at.4", "{:.2f}"),
            Row("the same at ten times", "worked_at.10", "{:.2f}"),
            Row("refusals, p50, worst window, ms", "refusal_ms_p50", "{:.0f}", ("<=", 50)),
            Row("refusals, p99, worst window, ms", "refusal_ms_p99", "{:.0f}", ("<=", 50)),
            Row("refusals with `Retry-After`", "refusals_with_retry_after", "{:.1%}", (">=", 1.0)),
            Row("let in, and answered within 5 s", "let_in_and_in_time", "{:.2%}", (">=", 0.999)),
            Row("failed", "failed", "{:.0f}", ("<=", 0)),
            Row("memory, last window against first past capacity", "rss_growth_past_capacity", "{:+.1%}", ("<=", 0.02)),
            Row("the client's share of a core, most", "client_cpu_share", "{:.2f}"),
            Row("the service's, but for its engine, at capacity", "service_cpu_share_at.1", "{:.2f}"),
            Row("the same at twice", "service_cpu_share_at.2", "{:.2f}"),
            Row("the same at ten times", "service_cpu_share_at.10", "{:.2f}"),
            Row("the engine's, at capacity", "engine_cpu_share_at.1", "{:.2f}"),
            Row("the same at twice", "engine_cpu_share_at.2", "{:.2f}"),
            Row("the same at ten times", "engine_cpu_share_at.10", "{:.2f}"),
        ),
    ),
    Section(
        "soak",
        "soak",
        "python bench/soak.py --minutes 30",
        (
            Row("minutes", "minutes", "{:.0f}"),
            Row("capacity, requests/s", "capacity_per_s", "{:.1f}"),
            Row("resident memory in the first minute, MiB", "rss_mib_first", "{:.0f}"),
            Row("resident memory in the last minute, MiB", "rss_mib_last", "{:.0f}"),
            Row("resident memory, MiB an hour", "rss_mib_per_hour", "{:+.1f}"),
            Row("file descriptors, an hour", "descriptors_per_hour", "{:+.2f}"),
            Row("threads, an hour", "threads_per_hour", "{:+.2f}"),
            Row(
                "how many of memory, descriptors and threads grow (interval above 0 and more than 0.5 % an hour)",
                "growing",
                "{:.0f}",
                ("<=", 0),
            ),
            Row("rests, in which nothing ran", "rests", "{:.0f}"),
            Row("slots of the worker, most while it worked", "slots_most", "{:.0f}"),
            Row("the same at rest, most", "slots_at_rest_most", "{:.0f}", ("<=", 0)),
            Row("share of key-value blocks in use, most while it worked", "kv_blocks_share_most", "{:.4f}"),
            Row("the same at rest, most", "kv_blocks_share_at_rest_most", "{:.4f}", ("<=", 0)),
            Row("answers other than 200 and 429", "other_statuses", "{:.0f}", ("<=", 0)),
            Row("clients who failed to do what they meant to", "failed", "{:.0f}", ("<=", 0)),
            Row("vectors recomputed", "recomputed", "{:.0f}"),
            Row("least cosine of these", "recomputed_cosine_least", "{:.7f}", (">=", 0.99999)),
            Row("scores of searches recomputed", "scores_recomputed", "{:.0f}"),
            Row("most that one is off", "recomputed_score_off_most", "{:.0e}", ("<=", 1e-4)),
        ),
    ),
    Section(
        "peers",
        "peers",
        "python bench/peers.py --data ../shared/data --infinity PATH",
        (
            *PEER_ROWS,
            Row("least cosine with sentence-transformers: GRACE", "grace_cosine_least", "{:.7f}", (">=", 0.99999)),
            Row("the same, instruction in the mean: vLLM", "vllm_cosine_least", "{:.7f}"),
            Row("the same, instruction in the mean: infinity", "infinity_cosine_least", "{:.7f}"),
        ),
    ),
    Section("search", "search", "python bench/search.py --rows 50000 --kind ivf --kind sq8", SEARCH_ROWS),
    Section("search_1m", "search_1m", "python bench/search.py --rows 1000000 --kind auto", SEARCH_ROWS),
    Section(
        "train_step",
        "train_step",
        "python bench/train_step.py",
        (
            Row("GRACE's step against plain TRL's, extra generation left out", "ratio_net", "{:.2f}", ("<=", 1.15)),
            Row("the same with it", "ratio_gross", "{:.2f}"),
        ),
    ),
    Section(
        "explain",
        "explain",
        "python bench/explain.py --documents 150",
        (Row("explaining ten hits adds, ms", "explaining_adds_ms_float32", "{:.1f}", ("<=", 20)),),
    ),
    Section(
        "eval",
        "eval",
        "python bench/eval.py",
        (Row("`grace-eval`'s embedding against the engine", "eval_vs_engine", "{:.3f}", (">=", 0.95)),),
    ),
    Section("growth", "growth", "python bench/growth.py", ()),
)


def lookup(results: dict[str, Any], key: str) -> Any:
    """The value under a dotted key, or None."""
    for part in key.split("."):
        if not isinstance(results, dict) or part not in results:
            return None
        results = results[part]
    return results
