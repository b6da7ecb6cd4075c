"""A collection's whole way, seen from outside: built, served, searched by curl, killed while it takes more, and whole.

    python scripts/search_walk.py --data FOLDER [--json FILE] [--folder FOLDER]

Cranfield is built by `grace-index build`. CISI is then sent to the server a batch at a time, and the server is killed
with -9 twice: while a batch is on its way, and when half of the vectors are made. A batch that was not acknowledged is
sent again, one that was is not. At the end everything is exported and compared with what was sent. The first thing that
is not as promised ends the walk with exit code 1. What is in `--folder` stays; a build that was cut off there goes on.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

BIN = Path(sys.executable).parent
BATCH = 100
START_S = 600  # on a busy machine
LONGEST_S = 1_800
GONE_S = 60

Document = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="holds cranfield/ and cisi/")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--folder", type=Path, help="keep everything there; by default nothing is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        figures = Walk(arguments.folder or Path(passing), arguments.data).run()
    print(json.dumps(figures, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


class Walk:
    """One data folder, and a port for whichever server is on it."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.sent = {name: documents(data / name / "corpus.jsonl.gz") for name in ("cranfield", "cisi")}
        with gzip.open(data / "cranfield/queries.jsonl.gz", "rt", encoding="utf-8") as file:
            self.queries = [json.loads(line)["text"] for line in file][:3]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        self.environment = {
            **os.environ,
            "GRACE_DATA_DIR": str(folder / "data"),
            "GRACE_PORT": self.address.rpartition(":")[2],
            "GRACE_LOG_LEVEL": "warning",
        }

    def run(self) -> dict[str, Any]:
        """All of it; figures in the order in which they were taken."""
        figures: dict[str, Any] = {"build": self.build()}
        cisi = self.sent["cisi"]
        batches = [cisi[at : at + BATCH] for at in range(0, len(cisi), BATCH)]
        half = len(batches) // 2
        with self.server() as process:
            figures["searches"] = self.searches()
            self.curl("PUT", "/indexes/cisi")
            for batch in batches[:half]:
                self.curl("POST", "/indexes/cisi/documents", {"documents": batch}, expected=202)
            ready = self.state()["ready"]
            sending = self.begin("POST", "/indexes/cisi/documents", {"documents": batches[half]})
            time.sleep(0.02)
            kill(process)
            answered = sending.wait() == 0
        with self.server() as process:
            there = self.there("cisi")
            least, most = contents(cisi[: half * BATCH]), contents(cisi[: (half + 1) * BATCH])
            expect(there == most or (there == least and not answered), f"{len(least)} acknowledged, {len(there)} there")
            figures["killed_while_writing"] = {"acknowledged": len(least), "ready": ready, "there": len(there)}
            for batch in batches[half:]:
                self.curl("POST", "/indexes/cisi/documents", {"documents": batch}, expected=202)
            ready = self.wait(until=len(cisi) // 2)
            kill(process)
        with self.server() as process:
            again = self.state()["ready"]
            expect(again >= ready, f"{ready} vectors were made before the kill, {again} are there after it")
            began = time.monotonic()
            done = self.wait(until=len(cisi))
            figures["killed_while_embedding"] = {
                "ready_before": ready,
                "ready_after_start": again,
                "ready_at_the_end": done,
                "documents_per_second": round((done - again) / (time.monotonic() - began), 1),
            }
            process.terminate()
            expect(process.wait(60) == 0, "SIGTERM did not end it with 0")
        figures["compared"] = {name: self.compare(name) for name in self.sent}
        return figures

    def build(self) -> dict[str, Any]:
        """`grace-index build` of Cranfield."""
        source = self.folder / "cranfield.jsonl"
        source.write_text("".join(json.dumps(d) + "\n" for d in self.sent["cranfield"]), encoding="utf-8")
        before = {found["name"]: found["counts"]["ready"] for found in self.listed()}
        expect(set(before) <= {"cranfield"}, f"there are indexes already: {sorted(before)}")
        began = time.monotonic()
        said = self.index("build", "--index", "cranfield", str(source)).stderr.splitlines()
        seconds = time.monotonic() - began
        [now] = [found["counts"] for found in self.listed()]
        return {
            "there_before": before.get("cranfield", 0),
            "said": said[-1 - now["failed"] :],
            "seconds": round(seconds, 1),  # the start of the engine is in them
            "documents_per_second": round((now["ready"] - before.get("cranfield", 0)) / seconds, 1),
        }

    def listed(self) -> list[dict[str, Any]]:
        """What `grace-index list` says."""
        return [json.loads(line) for line in self.index("list").stdout.splitlines()]

    def searches(self) -> dict[str, Any]:
        """Dense, dense with a filter, hybrid, and several queries at once."""
        short = {"field": "meta.words", "operator": "<", "value": 100}
        asked = {
            "dense": {"query": self.queries[0]},
            "filter": {"query": self.queries[0], "filter": short},
            "hybrid": {"query": self.queries[0], "method": "hybrid"},
            "several": {"query": self.queries},
        }
        found: dict[str, Any] = {}
        for name, question in asked.items():
            answer = self.curl("POST", "/search", {"index": "cranfield", "k": 5, **question})
            results = answer.get("results", [answer])
            expect(len(results) == (len(self.queries) if name == "several" else 1), f"{name}: {len(results)} results")
            for result in results:
                scores = [hit["score"] for hit in result["hits"]]
                expect(len(scores) == 5 and scores == sorted(scores, reverse=True), f"{name}: scores {scores}")
                expect(result["exact"], f"{name}: a flat index answers exactly")
            found[name] = {"ids": [[hit["id"] for hit in r["hits"]] for r in results], **results[0]["timing_ms"]}
            if name == "filter":
                words = [hit["metadata"]["words"] for hit in answer["hits"]]
                expect(max(words) < 100, f"the filter let {words} through")
        expect(found["several"]["ids"][0] == found["dense"]["ids"][0], "one query alone, and among several")
        return found

    def wait(self, *, until: int) -> int:
        """Until so many documents of CISI have their vector or their reason; how many have their vector."""
        end = time.monotonic() + LONGEST_S
        while (state := self.state())["ready"] + state["failed"] < until:
            expect(time.monotonic() < end, f"still {state} after {LONGEST_S} s")
            time.sleep(0.2)
        return state["ready"]

    def state(self) -> dict[str, int]:
        """How many documents of CISI are in which state."""
        found: dict[str, int] = self.curl("GET", "/indexes/cisi")["documents"]
        return found

    def there(self, name: str) -> dict[str, Any]:
        """Contents of all documents, whatever has a vector by now."""
        found: dict[str, Any] = {}
        after: str | None = ""
        while after is not None:
            page = self.curl("GET", f"/indexes/{name}/documents?limit=1000&after={after}")
            found |= contents(page["data"])
            after = page["next"]
        return found

    def compare(self, name: str) -> dict[str, Any]:
        """Export and verify, as a user would without a server."""
        exported = contents([json.loads(line) for line in self.index("export", "--index", name).stdout.splitlines()])
        wanted = contents(self.sent[name])
        differing = [id for id in exported.keys() | wanted.keys() if exported.get(id) != wanted.get(id)]
        expect(not differing, f"{name}: differs in {sorted(differing)[:10]}")
        return {"documents": len(exported), "verify": self.index("verify", "--index", name).stderr.strip()}

    def index(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A `grace-index` command, which must succeed."""
        done = subprocess.run(
            [BIN / "grace-index", "--quiet", *words], env=self.environment, capture_output=True, text=True, check=False
        )
        expect(done.returncode == 0, f"grace-index {words[0]}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return done

    def curl(self, method: str, path: str, body: Any = None, *, expected: int | None = None) -> Any:
        """The answer to a request, whose status must be a good one."""
        said, _ = self.begin(method, path, body).communicate()
        answer, _, status = said.rpartition("\n")
        good = status == str(expected) if expected else status.startswith("2")
        expect(good, f"{method} {path}: {status}: {answer[:1000]}")
        return json.loads(answer)

    def begin(self, method: str, path: str, body: Any = None) -> subprocess.Popen[str]:
        """Send a request, without waiting for the answer."""
        command = ["curl", "--silent", "--request", method, "--write-out", "\n%{http_code}", self.address + path]
        if body is not None:
            sent = self.folder / "body.json"
            sent.write_text(json.dumps(body), encoding="utf-8")
            command += ["--header", "content-type: application/json", "--data-binary", f"@{sent}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    @contextmanager
    def server(self) -> Iterator[subprocess.Popen[bytes]]:
        """`grace-serve`, ready; whatever happens, it and its engine are gone afterwards."""
        process = subprocess.Popen([BIN / "grace-serve"], env=self.environment, start_new_session=True)
        ready = ["curl", "--silent", "--fail", "--output", "/dev/null", f"{self.address}/readyz"]
        try:
            end = time.monotonic() + START_S
            while subprocess.run(ready, check=False).returncode:
                expect(process.poll() is None, f"the server ended with {process.returncode}")
                expect(time.monotonic() < end, f"not ready after {START_S} s")
                time.sleep(0.2)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def documents(path: Path) -> list[Document]:
    """A collection as documents of ours; the title, its number and the count of words are metadata."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        {
            "id": row["id"],
            "text": row["text"],
            "metadata": {"title": row["title"], "number": int(row["id"]), "words": len(row["text"].split())},
        }
        for row in rows
    ]


def contents(rows: list[Document]) -> dict[str, Any]:
    """What must come back of each document, by id."""
    return {row["id"]: (row["text"], row["metadata"]) for row in rows}


def kill(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` of the server alone: its engine must find out by itself and go."""
    engines = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(engines, timeout=GONE_S)
    left = [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    expect(not left, f"{GONE_S} s after the server's death there are still {left}")


def expect(holds: bool, otherwise: str) -> None:
    """End the walk unless it holds."""
    if not holds:
        sys.exit(f"search_walk: {otherwise}")


if __name__ == "__main__":
    main()
