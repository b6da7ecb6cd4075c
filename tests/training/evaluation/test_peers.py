"""Peers promise their own numbers under the same command."""

from __future__ import annotations

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer

from grace_training.evaluation.echo import Echo
from grace_training.evaluation.evaluate import Harness, fresh
from grace_training.evaluation.lexical import BM25, TfIdf
from grace_training.evaluation.peers import open_peer
from grace_training.evaluation.results import Run
from grace_training.evaluation.suites import SHIPPED, load_suite

RUN = Run("peer", "peer", "peer", "", None, None)
TEXTS = ["The river rises in the hills.", "A guild of masons built the bridge.", "", "The river meets the sea."]


def loader(texts: list[str]) -> Any:
    return DataLoader(Dataset.from_dict({"text": texts}), batch_size=2)


def test_echo_pools_the_second_copy_and_nothing_else(model_folder: Path) -> None:
    echo = Echo(str(model_folder))
    vectors = echo.encode(loader(TEXTS))
    model = AutoModel.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    for text, vector in zip(TEXTS[:2], vectors, strict=False):
        parts = ("Rewrite the following paragraph: ", text, "\nThe rewritten paragraph: ", text)
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts]
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([[i for part in ids for i in part]])).last_hidden_state[0]
        mean = states[-len(ids[3]) :].mean(dim=0).numpy()
        assert float(vector @ mean / np.linalg.norm(mean)) == pytest.approx(1, abs=1e-5)


def test_bm25_ranks_as_its_formula_says() -> None:
    bm25 = BM25()
    documents = ["harbour ice", "harbour harbour bread and butter", "bread"]
    bm25.index(Dataset.from_dict({"id": ["a", "b", "c"], "title": [""] * 3, "text": documents}))
    queries = Dataset.from_dict({"id": ["q", "none"], "text": ["Harbours?", "zebra"]})
    found = bm25.search(queries, top_k=10)
    assert found["none"] == {}
    # SQLite's floor for the idf of a word that more than half of the documents hold
    idf = max(1e-6, math.log((3 - 2 + 0.5) / (2 + 0.5)))
    average = (2 + 5 + 1) / 3
    for name, count, length in (("a", 1, 2), ("b", 2, 5)):
        expected = idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * length / average))
        assert found["q"][name] == pytest.approx(expected, rel=1e-3)
    again = bm25.search(queries, top_k=10, top_ranked={"q": ["c", "a"], "none": ["c"]})
    assert again["q"]["a"] == pytest.approx(found["q"]["a"])
    assert again["q"]["c"] == 0
    assert again["none"] == {"c": 0}


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    tasks, _ = load_suite(SHIPPED / "small", None).tasks(limit=10)
    return {str(task.metadata.type): task for task in tasks}


def test_bm25_fails_where_there_are_no_vectors_and_says_why(shipped: dict[str, Any], tmp_path: Path) -> None:
    tasks = [shipped["Retrieval"], shipped["Reranking"], shipped["STS"]]
    records = Harness(tmp_path, show_progress=False).run(RUN, BM25(), tasks).tasks
    assert [record.status for record in records] == ["done", "done", "failed"]
    assert records[2].reason == "BadRecipe: a model without vectors can do retrieval and reranking alone"
    assert all(record.texts for record in records[:2])


@pytest.mark.parametrize("dimensions", [None, 16])
def test_tfidf_does_every_category(shipped: dict[str, Any], tmp_path: Path, dimensions: int | None) -> None:
    model = TfIdf(dimensions)
    harness = Harness(tmp_path, prepare=model.prepare, show_progress=False)
    records = harness.run(RUN, model, list(shipped.values())).tasks
    assert [record.reason for record in records] == [None] * 7
    model.prepare(fresh(shipped["STS"]))
    vectors = model.encode(loader(["A man rides his motorcycle.", "qqqqqq"]))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0])


def test_a_folder_of_sentence_transformers_is_taken(
    model_folder: Path, tmp_path: Path, shipped: dict[str, Any]
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    transformer = Transformer(str(model_folder))
    SentenceTransformer(modules=[transformer, Pooling(64, "mean")], device="cpu").save(str(tmp_path / "peers" / "st"))
    peer = open_peer(f"st:{tmp_path / 'peers' / 'st'}")
    (record,) = Harness(tmp_path, show_progress=False).run(RUN, peer, [shipped["STS"]]).tasks
    assert record.reason is None
    assert (tmp_path / "results" / "peers__st" / "local" / f"{record.task}.json").exists()


class _Embeddings(BaseHTTPRequestHandler):
    """As much of an OpenAI-compatible server as a client needs: a vector of letter counts for every text."""

    asked: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "letters"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        vectors = [[float(text.count(letter)) + 0.1 for letter in "aeiou"] for text in body["input"]]
        self._answer({"data": [{"index": n, "embedding": vector} for n, vector in enumerate(vectors)]})

    def _answer(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_server_is_asked_in_openais_form(shipped: dict[str, Any], tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Embeddings) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        peer = open_peer(f"openai:letters@http://127.0.0.1:{server.server_port}/v1")
        (record,) = Harness(tmp_path, show_progress=False).run(RUN, peer, [shipped["STS"]]).tasks
        server.shutdown()
    assert record.reason is None
    assert {body["model"] for body in _Embeddings.asked} == {"letters"}
    assert record.texts == len({text for body in _Embeddings.asked for text in body["input"]})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("word2vec", "must be st:"),
        ("st:", "needs a model"),
        ("openai:model", "MODEL@URL"),
        ("openai:model@http://127.0.0.1:9", "cannot be opened"),
        ("st:/nowhere/at/all", "cannot be opened"),
        ("echo:/nowhere", "neither a folder nor a hub id"),
    ],
)
def test_a_peer_that_cannot_be_opened_says_why(spec: str, said: str) -> None:
    from grace.errors import GraceError

    with pytest.raises(GraceError, match=said):
        open_peer(spec)
