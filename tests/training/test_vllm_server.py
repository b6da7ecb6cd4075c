"""Rollouts by a vLLM server: TRL's own client against a server that speaks the protocol and makes up the tokens.

What only NCCL can do, sending the weights, is replaced by a list of what would have been sent.
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import torch

from grace.prompt import Prompter
from grace_training.pooling import forward_pooled, prompt_tail
from tests.training.conftest import MakeTrainer, examples

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


class Server(ThreadingHTTPServer):
    """/health, /v1/models, /server_info, /v1/completions and /reset_prefix_cache, as vLLM 0.32.0 answers TRL."""

    def __init__(self, stop_id: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.stop_id = stop_id
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        choices = []
        for prompt in body["prompt"]:
            for n in range(body["n"]):
                draw = random.Random(repr((prompt, n, len(self.asked))))
                ids = [draw.randrange(10, 60) for _ in range(draw.randrange(1, body["max_tokens"] + 1))]
                if len(ids) < body["max_tokens"]:
                    ids.append(self.stop_id)
                names = [f"token_id:{i}" for i in ids]
                logprobs = {
                    "tokens": names,
                    "token_logprobs": [-3.0] * len(ids),
                    "top_logprobs": [{name: -3.0} for name in names],
                }
                choices.append({"prompt_token_ids": prompt, "token_ids": ids, "logprobs": logprobs})
        return {"choices": choices}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        answers: dict[str, dict[str, Any]] = {
            "/v1/models": {"data": [{"id": "policy"}]},
            "/server_info": {"vllm_config": {"model_config": {"logprobs_mode": "processed_logprobs"}}},
        }
        self._answer(answers.get(self.path.partition("?")[0], {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self._answer(self.server.complete(body) if self.path == "/v1/completions" else {"success": True})

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(prompter: Prompter) -> Iterator[Server]:
    with Server(prompter.stop_ids[0]) as running:
        Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_a_server_writes_and_the_policy_pools(make_trainer: MakeTrainer, server: Server, monkeypatch: Any) -> None:
    from trl.generation.vllm_client import VLLMClient

    sent: list[list[str]] = []
    monkeypatch.setattr(VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(
        VLLMClient, "update_named_params", lambda self, metadata, params: sent.append([name for name, _ in params])
    )
    trainer = make_trainer(
        data=examples(4),
        preset="improved",
        algorithm="remax",
        use_vllm=True,
        vllm_mode="server",
        vllm_server_base_url=server.url,
    )
    assert trainer.args.pool_in == "logprob"
    trainer.train()
    assert trainer.state.global_step == 2
    # In each step: two texts rolled out four times at 1, their queries and negatives once at 0.5, a greedy rollout.
    asked = [(len(body["prompt"]), body["n"], body["temperature"]) for body in server.asked]
    assert asked == [(2, 4, 1.0), (4, 1, 0.5), (2, 1, 0.0)] * 2
    assert [list(job.prompt_ids) for job in trainer._batch.jobs] == server.asked[3]["prompt"]
    # New weights before each step, and all of them.
    assert len(sent) == 2
    assert set(sent[0]) == {name for name, _ in trainer.model.named_parameters()}


def test_the_states_are_those_of_the_servers_tokens(
    make_trainer: MakeTrainer, server: Server, monkeypatch: Any
) -> None:
    from trl.generation.vllm_client import VLLMClient

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda self, device: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", lambda self, metadata, params: list(params))
    trainer = make_trainer(use_vllm=True, vllm_mode="server", vllm_server_base_url=server.url)
    trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    jobs, drawn = trainer._batch.rollout_jobs, trainer._drawn.rollouts
    alone = forward_pooled(
        trainer.backbone,
        [(*job.prompt_ids, *ids[:-1]) for job, ids in zip(jobs, drawn.token_ids, strict=True)],
        [prompt_tail(job, "mean") + len(ids) - 1 for job, ids in zip(jobs, drawn.token_ids, strict=True)],
        "mean",
        batch_size=1,
        device=torch.device("cpu"),
    )
    assert drawn.states is not None
    torch.testing.assert_close(drawn.states, alone, atol=1e-4, rtol=0)
