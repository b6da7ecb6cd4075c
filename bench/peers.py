r"""`/v1/embeddings` in mode `direct` beside what one would otherwise run the same weights with, on the same texts.

  grace         `grace-serve`
  sentences     sentence-transformers in this process, batches of 32, sorted by length as it does
  sentences_http  the same behind the smallest FastAPI service that is right (one thread for the model)
  vllm          vLLM's own pooling server, mean pooling
  infinity      infinity-emb, if `--infinity PATH` names its command (it wants an environment of its own)

Every arm reads the instruction, then the text, and the servers are sent texts, not ids. Sentence-transformers can leave
the instruction out of the mean (`include_prompt=False`), as we do: its vectors must be ours. vLLM and infinity pool the
instruction too: theirs are held against sentence-transformers' with it.

Two ways of asking, each interleaved over rounds, all servers up: `batches`, 8 callers with 32 texts a request, and
`singles`, 32 callers with one text a request. STSBenchmark's sentences with `--data`, made-up ones of the same length
without. No arm has a cache. An environment in which infinity starts:

    pip install infinity-emb==0.0.77 "transformers<4.50" "sentence-transformers<5" "optimum<1.25" "numpy<2.3" \
        "click<8.2" "typer<0.16" torch uvicorn fastapi rich orjson httptools prometheus-fastapi-instrumentator einops
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import argparse
import asyncio
import base64
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from bench._client import Client
from bench._server import bundled, free_port, running, served
from bench._shared import rates, ratios, report, with_interval
from bench._texts import sentences

SERVER = """
import sys, threading
from fastapi import FastAPI
from pydantic import BaseModel
import uvicorn
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", model_kwargs={"dtype": "float32"})
lock, app = threading.Lock(), FastAPI()
class Body(BaseModel):
    input: list[str]
@app.get("/health")
def health(): return "ready"
@app.post("/v1/embeddings")
def embeddings(body: Body):
    with lock:
        vectors = model.encode(body.input, normalize_embeddings=True, batch_size=32)
    return {"data": [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]}
uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""
WAYS = {"batches": (8, 32), "singles": (32, 1)}  # callers, texts a request
REST_S = 0.3  # idle threads of the arm before spin for a while, and would be counted against the next one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="folder that holds stsbenchmark/dev.jsonl.gz")
    parser.add_argument("--texts", type=int, default=512, help="in a round, of each way")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--infinity", type=Path, help="the command infinity_emb")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        report(measure(Path(folder), options, stack), options.json)


def measure(folder: Path, options: Any, stack: ExitStack) -> dict[str, Any]:
    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    prompter = Prompter(Checkpoint.load(bundled()))
    prefix = prompter.decode(prompter.templates["document"].prefix)
    alone, whole = as_sentence_transformer(folder, prefix)
    arms: dict[str, Callable[[list[str], int, int], Any]] = {}

    def add(name: str, port: int, body: dict[str, Any], before: str = "") -> None:
        arms[name] = lambda texts, callers, size: asyncio.run(
            ask(port, [before + t for t in texts], callers, size, body)
        )

    grace = stack.enter_context(served(max_num_seqs=64, cache=False))
    add("grace", grace.port, {"model": "grace-tiny", "mode": "direct"})
    arms["sentences"] = lambda texts, _, size: alone.encode(
        texts, prompt=prefix, normalize_embeddings=True, batch_size=32, show_progress_bar=False
    )
    port = free_port()
    (folder / "server.py").write_text(SERVER)
    stack.enter_context(running([sys.executable, str(folder / "server.py"), whole, str(port)], port, "/health"))
    add("sentences_http", port, {}, prefix)
    port = free_port()
    # By its module: the command `vllm` wants a distribution of that name, and the one for CPUs has another.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(bundled())]
    command += ["--runner", "pooling"]
    command += ["--convert", "embed", "--pooler-config", '{"pooling_type": "MEAN"}', "--dtype", "float32"]
    command += ["--port", str(port), "--enforce-eager", "--kv-cache-memory-bytes", str(2**28), "--max-num-seqs", "64"]
    stack.enter_context(
        running(
            [*command, "--served-model-name", "m"],
            port,
            "/health",
            {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        )
    )
    add("vllm", port, {"model": "m"}, prefix)
    if options.infinity:
        port = free_port()
        command = [str(options.infinity), "v2", "--model-id", whole, "--served-model-name", "m", "--port", str(port)]
        command += [
            "--engine",
            "torch",
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--no-bettertransformer",
            "--url-prefix",
            "/v1",
        ]
        environment = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}
        stack.enter_context(running(command, port, "/health", environment))
        add("infinity", port, {"model": "m"}, prefix)
    figures = same_vectors(arms, alone, prefix, sentences(options.data, 64, seed=99))
    for way, (callers, size) in WAYS.items():
        figures |= compare(way, arms, callers, size, options)
    return figures


def as_sentence_transformer(folder: Path, prefix: str) -> tuple[Any, str]:
    """A model for sentence-transformers that leaves the prompt out of the mean, and a folder with one that does not."""
    from sentence_transformers import SentenceTransformer, models

    weights = folder / "weights"
    shutil.copytree(bundled(), weights)
    (weights / "chat_template.jinja").unlink()  # it would put each text into a user's turn; ours is in the prompt
    # Older versions of Transformers, which infinity has, do not know the newest name of this class.
    config = json.loads((weights / "tokenizer_config.json").read_text())
    (weights / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    transformer = models.Transformer(str(weights), max_seq_length=1024, model_args={"dtype": "float32"})
    width = transformer.get_word_embedding_dimension()
    alone = SentenceTransformer(
        modules=[transformer, models.Pooling(width, "mean", include_prompt=False)], device="cpu"
    )
    # A folder in the form that every version reads, infinity's old one too.
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "sentence_bert_config.json": {"max_seq_length": 1024, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True},
    }
    (weights / "1_Pooling").mkdir()
    for name, content in files.items():
        (weights / name).write_text(json.dumps(content))
    return alone, str(weights)


async def ask(port: int, texts: list[str], callers: int, size: int, body: dict[str, Any]) -> list[list[float]]:
    """All texts, `size` in a request, `callers` requests at a time; their vectors in order."""
    client, starts = Client(port), iter(range(0, len(texts), size))
    found: dict[int, Any] = {}

    async def caller() -> None:
        for start in starts:
            reply = await client.send(client.request("/v1/embeddings", body | {"input": texts[start : start + size]}))
            assert reply.status == 200, reply.body
            found[start] = reply.body

    await asyncio.gather(*(caller() for _ in range(callers)))
    client.close()
    return [item["embedding"] for start in sorted(found) for item in json.loads(found[start])["data"]]


def same_vectors(arms: dict[str, Any], alone: Any, prefix: str, texts: list[str]) -> dict[str, Any]:
    """The least cosine of each arm with sentence-transformers, the instruction in the mean or not as the arm has it."""
    ours = np.asarray(alone.encode(texts, prompt=prefix, normalize_embeddings=True))
    with_prefix = np.asarray(vectors(arms["sentences_http"](texts, 1, 32)))
    found = {}
    for arm in arms:
        if arm in ("sentences", "sentences_http"):
            continue
        other = np.asarray(vectors(arms[arm](texts, 1, 32)))
        reference = ours if arm == "grace" else with_prefix
        found[f"{arm}_cosine_least"] = float((other * reference).sum(axis=1).min())
    return found


def vectors(answers: list[Any]) -> list[Any]:
    return [np.frombuffer(base64.b64decode(a), "<f4") if isinstance(a, str) else a for a in answers]


def compare(way: str, arms: dict[str, Any], callers: int, size: int, options: Any) -> dict[str, Any]:
    # Offline there are no callers: it is the same for both ways, and measured with the first.
    chosen = [arm for arm in arms if way == "batches" or arm != "sentences"]
    count = options.texts if size > 1 else options.texts // 2
    seconds: dict[str, list[float]] = {arm: [] for arm in chosen}
    for number in range(options.rounds + 1):
        texts = sentences(options.data, count, seed=number)
        for arm in chosen[number % len(chosen) :] + chosen[: number % len(chosen)]:
            time.sleep(REST_S)
            start = time.perf_counter()
            arms[arm](texts, callers, size)
            if number:  # the first round warms up
                seconds[arm].append(time.perf_counter() - start)
    figures = rates(seconds, count, f"{way}_")
    for arm in chosen[1:]:
        figures |= with_interval(f"{way}_grace_vs_{arm}", ratios(seconds[arm], seconds["grace"]))
    return figures


if __name__ == "__main__":
    main()
