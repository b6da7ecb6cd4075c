"""The dashboard's queries, traffic that fills its panels, and a real Prometheus to ask."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/grace.json").read_text())


def panels() -> Iterator[tuple[str, str]]:
    """Title and query of everything on the dashboard."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def traffic(url: str) -> None:
    """Requests of every kind: good and bad, whole and streamed, embedding and search, twice the same for the cache."""
    new = f"A text of {time.time_ns()}."  # what the cache knows is not generated
    with httpx.Client(base_url=url, timeout=60) as client:
        for text in (new, new, f"{new} Longer."):
            assert client.post("/embed", json={"input": text, "max_rationale_tokens": 4}).is_success
        asked = {"input": f"{new} In pieces.", "max_rationale_tokens": 4, "stream": True}
        with client.stream("POST", "/embed", json=asked) as reply:
            assert "event: embedding" in "\n".join(reply.iter_lines())
        assert client.post("/embed", json={"input": 3}).status_code == 422
        assert client.post("/search", json={"index": "absent", "query": new}).status_code == 404
        settings = {"kind": "hnsw", "flat_limit": 0, "document_mode": "direct", "query_mode": "direct"}
        assert client.put("/indexes/notes", json={"settings": settings}).is_success
        documents = [{"id": str(i), "text": f"text {i}"} for i in range(20)]
        assert client.post("/indexes/notes/documents", json={"documents": documents, "wait": True}).is_success
        for method in ("dense", "lexical", "hybrid"):
            assert client.post(
                "/search", json={"index": "notes", "query": f"{new} {method}", "method": method}
            ).is_success


@contextmanager
def prometheus(folder: Path, flags: Sequence[str]) -> Iterator[str]:
    """The address of Debian's Prometheus, run in a folder with these flags, on a port of its own."""
    port = free_port()
    command = ["prometheus", *flags, f"--web.listen-address=127.0.0.1:{port}"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def has_numbers(prometheus: str, query: str, *, rate_interval: str) -> bool:
    """Whether a query of the dashboard gives at least one number now, with Grafana's variables on "all".

    Raises:
        AssertionError: Prometheus takes it for no query.
        httpx.TransportError: It is still starting.
    """
    text = query.replace("$__rate_interval", rate_interval).replace("$job", ".*").replace("$instance", ".*")
    reply = httpx.get(f"{prometheus}/api/v1/query", params={"query": text}).json()
    assert reply["status"] == "success", (query, reply)
    return any(float(sample["value"][1]) == float(sample["value"][1]) for sample in reply["data"]["result"])


def without_numbers(
    service: str, prometheus: str, queries: Sequence[str], *, rate_interval: str, patience_s: float
) -> list[str]:
    """Send traffic until every query has given a number; those that have not in that time."""
    waiting = list(queries)
    deadline = time.monotonic() + patience_s
    while waiting and time.monotonic() < deadline:
        traffic(service)
        time.sleep(1)
        try:
            waiting = [query for query in waiting if not has_numbers(prometheus, query, rate_interval=rate_interval)]
        except httpx.TransportError:
            continue
    return waiting
