"""What is counted: every metric, declared once, with base units. All series exist from the start, at zero."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REJECTIONS = ("queue_full", "queue_timeout", "too_large", "draining", "loading", "engine_down", "unauthorized")
FINISH_REASONS = ("stop", "length", "given")
LOOKUPS = ("hit", "miss", "error")
METHODS = ("dense", "lexical", "hybrid")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SHORT_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS[:11])
_TOKENS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


class Metrics:
    """One set of metrics per application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        self.requests = Counter("grace_requests", "Finished requests", ("route", "status"), registry=r)
        self.request_seconds = Histogram(
            "grace_request_seconds", "From the first byte to the last", ("route",), buckets=_SECONDS, registry=r
        )
        self.rejections = Counter("grace_rejections", "Requests refused", ("reason",), registry=r)
        self.running_requests = Gauge("grace_running_requests", "Texts inside the engine", registry=r)
        self.running_tokens = Gauge("grace_running_tokens", "Their prompts and rationale budgets", registry=r)
        self.queued_requests = Gauge("grace_queued_requests", "Texts waiting for the engine", registry=r)
        self.queued_tokens = Gauge("grace_queued_tokens", "Their prompts and rationale budgets", registry=r)
        self.engine_slots = Gauge("grace_engine_slots", "Texts whose sums vLLM's worker holds", registry=r)
        self.queue_seconds = Histogram("grace_queue_seconds", "Time in the queue", buckets=_SECONDS, registry=r)
        self.generate_seconds = Histogram("grace_generate_seconds", "Time in the engine", buckets=_SECONDS, registry=r)
        self.pool_seconds = Histogram(
            "grace_pool_seconds", "Time to make vectors of a request's states", buckets=_SHORT_SECONDS, registry=r
        )
        self.search_seconds = Histogram(
            "grace_search_seconds",
            "Time to find the hits of a request, its queries embedded",
            ("method",),
            buckets=_SHORT_SECONDS,
            registry=r,
        )
        self.query_seconds = Histogram(
            "grace_query_seconds", "Time to embed the queries of a search", buckets=_SECONDS, registry=r
        )
        self.index_rows = Gauge("grace_index_rows", "Documents with a vector", ("index",), registry=r)
        self.index_waiting = Gauge(
            "grace_index_waiting", "Documents that wait for their vector", ("index",), registry=r
        )
        self.index_tombstones = Gauge(
            "grace_index_tombstones", "Deleted rows still in the vector index's memory", ("index",), registry=r
        )
        self.index_bytes = Gauge("grace_index_bytes", "Size on disk", ("index",), registry=r)
        self.index_checkpoint_age = Gauge(
            "grace_index_checkpoint_age_seconds", "Age of the checkpoint; 0 without one", ("index",), registry=r
        )
        self.index_jobs = Gauge("grace_index_jobs", "Jobs that are not finished", ("index",), registry=r)
        self.unopened_indexes = Gauge("grace_unopened_indexes", "Folders of indexes left alone", registry=r)
        self.cancelled = Counter("grace_cancelled", "Generations stopped because every caller left", registry=r)
        self.prompt_tokens = Counter("grace_prompt_tokens", "Prompt tokens that went through the engine", registry=r)
        self.completion_tokens = Counter("grace_completion_tokens", "Tokens sampled by the engine", registry=r)
        self.rationale_tokens = Histogram(
            "grace_rationale_tokens", "Tokens of a written rationale", buckets=_TOKENS, registry=r
        )
        self.finished = Counter("grace_finished", "Rationales by how they ended", ("reason",), registry=r)
        self.truncations = Counter("grace_truncations", "Texts cut to the token limit", registry=r)
        self.cache_lookups = Counter("grace_cache_lookups", "Looks into the cache", ("result",), registry=r)
        self.shared = Counter("grace_shared", "Texts answered by a generation already in flight", registry=r)
        self.ready = Gauge("grace_ready", "1 while the service takes requests", registry=r)
        self.model = Gauge("grace_model_info", "The model served; always 1", ("model", "fingerprint"), registry=r)
        for reason in REJECTIONS:
            self.rejections.labels(reason)
        for reason in FINISH_REASONS:
            self.finished.labels(reason)
        for result in LOOKUPS:
            self.cache_lookups.labels(result)
        for method in METHODS:
            self.search_seconds.labels(method)

    def expect_routes(self, routes: list[str]) -> None:
        """Create the series of each route before its first request."""
        for route in routes:
            self.requests.labels(route, "200")
            self.request_seconds.labels(route)

    def exposition(self) -> bytes:
        """Prometheus' text format: ours, then what the process and vLLM register by themselves."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
