"""Audit records promise: nobody else can have signed them, and the vector can be made again from what they say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.pooling import unit
from grace.prompt import Prompter
from grace.representation import Job, Representation
from grace_server.audit import signing
from grace_server.audit.signing import KeyUnusable, Signer
from grace_server.index.cli import UNSOUND, run
from grace_server.index.model import Model
from tests.server.conftest import Serve

TEXTS = ["The river rises in the hills. It is long.", "Bread needs salt  and time 😀."]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"mode": "direct"},
    {"role": "query", "pooling": "rationale", "dimensions": 9},
    {"n": 3, "temperature": 0.7},
    {"rationale": ["<think>Mine.</think> My own.", "Another."], "normalize": False},
    {"max_rationale_tokens": 3, "pooling": "last"},
]


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "audit.pem"
    signing.new_key(path)
    return path


class Verify:
    """Runs `grace-index audit verify` with a fake engine, which `changed` may alter."""

    def __init__(self, folder: Path, prompter: Prompter, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.prompter, self.key, self.capsys = folder, prompter, key, capsys
        self.factor, self.noise, self.fingerprint = 1.0, 0.0, prompter.checkpoint.fingerprint

    async def __call__(self, lines: Sequence[str | bytes], *words: str) -> tuple[int, list[dict[str, Any]]]:
        path = self.folder / "audit.jsonl"
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
        arguments = ["audit", "verify", str(path), "--key", str(self.key), *words]
        self.capsys.readouterr()
        code = await self.run("--data-dir", str(self.folder / "indexes"), *arguments)
        return code, [json.loads(line) for line in self.capsys.readouterr().out.splitlines()]

    async def run(self, *words: str) -> int:
        return await asyncio.to_thread(run, list(words), model_of=self.model_of)

    def model_of(self, name: str | None, engine: str | None) -> Any:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Model]:
            fake = FakeEngine(self.prompter)

            async def represent(job: Job) -> Representation:
                made = await fake.represent(job)
                rng = np.random.default_rng(0)
                shaken = made.sums + self.noise * rng.standard_normal(made.sums.shape).astype(np.float32)
                return replace(made, sums=shaken)

            checkpoint = replace(self.prompter.checkpoint, fingerprint=self.fingerprint)
            yield Model(represent, self.prompter, checkpoint)

        return opened()


@pytest.fixture
def verify(tmp_path: Path, prompter: Prompter, key: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    return Verify(tmp_path, prompter, key, capsys)


async def audited(serve: Serve, key: Path, **options: Any) -> list[dict[str, Any]]:
    service = await serve(audit_key=key, cache=False)
    reply = await service.embed(input=TEXTS, audit=True, **options)
    return [item["audit"] for item in reply["data"]]


def lines_of(records: list[dict[str, Any]]) -> list[str]:
    return [json.dumps({**record, "input": text}) for record, text in zip(records, TEXTS, strict=True)]


@pytest.fixture(params=OPTIONS, ids=lambda options: "-".join(map(str, options)) or "plain")
async def records(serve: Serve, key: Path, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return await audited(serve, key, **request.param)


async def test_a_vector_is_made_again_to_the_bit_under_every_option(
    records: list[dict[str, Any]], verify: Verify
) -> None:
    code, findings = await verify(lines_of(records))
    assert [finding["verdict"] for finding in findings] == ["identical"] * 2, findings
    assert code == 0
    assert not any(text in json.dumps(record) for record in records for text in TEXTS)


async def test_a_line_may_hold_what_others_take_for_its_end(serve: Serve, key: Path, verify: Verify) -> None:
    service = await serve(audit_key=key, cache=False)
    text = "One.\u2028Two.\u0085Three."
    reply = await service.embed(input=[text], audit=True)
    line = json.dumps({**reply["data"][0]["audit"], "input": text}, ensure_ascii=False)
    code, findings = await verify([line])
    assert code == 0
    assert len(findings) == 1


async def test_rounding_is_told_from_another_vector(serve: Serve, key: Path, verify: Verify) -> None:
    lines = lines_of(await audited(serve, key))
    verify.noise = 1e-5
    code, findings = await verify(lines)
    assert [finding["verdict"] for finding in findings] == ["same"] * 2
    assert all(0 < finding["distance"] < 1e-4 for finding in findings)
    assert code == 0
    verify.noise = 3.0
    code, findings = await verify(lines)
    assert [finding["verdict"] for finding in findings] == ["different"] * 2
    assert code == UNSOUND


async def test_whatever_is_changed_in_a_record_is_found_out(serve: Serve, key: Path, verify: Verify) -> None:
    [record, other] = await audited(serve, key)
    forgeries = [
        {"record": {**record["record"], name: value}, "signature": record["signature"], "input": TEXTS[0]}
        for name, value in (
            ("vector_sha256", "0" * 64),
            ("input_sha256", signing.text_hash("x")),
            ("fingerprint", "f" * 32),
            ("rationales", []),
            ("created_at", "2001-01-01T00:00:00Z"),
        )
    ]
    forgeries.append({"record": record["record"], "signature": other["signature"], "input": TEXTS[0]})
    code, findings = await verify([json.dumps(line) for line in forgeries])
    assert {finding["verdict"] for finding in findings} == {"forged"}
    assert code == UNSOUND
    code, findings = await verify([json.dumps(record), "no json", "[]", json.dumps({"record": {}})])
    assert [finding["verdict"] for finding in findings] == ["no text", "unreadable", "unreadable", "unreadable"]
    assert code == UNSOUND


@pytest.mark.parametrize(
    "bad",
    [
        b"[" * 200_000,
        b'{"record": ' + b"[" * 200_000,
        b"\xff\xfe",
        b"caf\xe9",
        b'{"record": {"input_sha256": "\\ud800"}}',
    ],
    ids=["deep", "deep record", "utf-16", "latin-1", "surrogate"],
)
async def test_a_bad_line_is_a_finding_and_the_next_is_checked(
    serve: Serve, key: Path, verify: Verify, bad: bytes
) -> None:
    good = lines_of(await audited(serve, key))[0]
    code, findings = await verify([bad, good])
    assert findings[0]["verdict"] in ("unreadable", "forged")
    assert [finding["line"] for finding in findings] == [1, 2]
    assert findings[1]["verdict"] == "identical"
    assert code == UNSOUND


async def test_a_file_without_lines_shows_nothing(verify: Verify) -> None:
    assert await verify([]) == (UNSOUND, [])
    assert await verify(["", " "], "--signatures") == (UNSOUND, [])


async def test_a_text_that_was_cut_elsewhere_is_not_called_different(
    serve: Serve, key: Path, verify: Verify, model_folder: Path
) -> None:
    text = "The river rises in the hills. " * 400
    service = await serve(audit_key=key, cache=False)
    [item] = (await service.embed(input=[text], audit=True))["data"]
    record = item["audit"]["record"]
    assert record["truncated"]
    assert record["input_tokens"] == item["input_tokens"]
    line = json.dumps({**item["audit"], "input": text})
    assert (await verify([line]))[1][0]["verdict"] == "identical"

    verify.prompter = Prompter(Checkpoint.load(model_folder, max_context_tokens=192))
    assert verify.prompter.checkpoint.fingerprint == verify.fingerprint
    code, [finding] = await verify([line])
    assert (finding["verdict"], finding["signed"]) == ("unreadable", True)
    assert f"cut at {record['input_tokens']} tokens" in finding["detail"]
    assert f"cuts it at {verify.prompter.max_input_tokens} tokens" in finding["detail"]
    assert "GRACE_MAX_CONTEXT_TOKENS" in finding["detail"]
    assert code == UNSOUND

    del record["input_tokens"]  # as records were written before
    before = json.dumps({**Signer.load(key).sign(record), "input": text})
    [finding] = (await verify([before]))[1]
    assert finding["verdict"] == "different"
    assert "GRACE_MAX_CONTEXT_TOKENS" in finding["detail"]


async def test_texts_come_from_beside_a_file_or_an_index(
    serve: Serve, key: Path, verify: Verify, tmp_path: Path
) -> None:
    records = await audited(serve, key)
    lines = [json.dumps(record) for record in records]
    assert (await verify(lines, "--signatures"))[0] == 0
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(TEXTS)))
    code, findings = await verify(lines, "--texts", str(source))
    assert [finding["verdict"] for finding in findings] == ["identical"] * 2
    words = ["--data-dir", str(tmp_path / "indexes"), "--quiet", "build", "--index", "a", str(source)]
    assert await verify.run(*words) == 0
    code, findings = await verify(lines, "--index", "a")
    assert [finding["verdict"] for finding in findings] == ["identical"] * 2
    assert code == 0
    swapped = [json.dumps({**records[0], "input": TEXTS[1]})]
    assert (await verify(swapped))[1][0]["verdict"] == "no text"


async def test_another_model_is_named_and_not_asked(serve: Serve, key: Path, verify: Verify) -> None:
    lines = lines_of(await audited(serve, key))
    verify.fingerprint = "f" * 32
    code, findings = await verify(lines)
    assert {finding["verdict"] for finding in findings} == {"other model"}
    assert code == UNSOUND


async def test_a_greedy_rationale_can_be_asked_for_again(serve: Serve, key: Path, verify: Verify) -> None:
    records = await audited(serve, key)
    code, findings = await verify(lines_of(records), "--write-again")
    assert [finding["verdict"] for finding in findings] == ["identical"] * 2
    # A record of a given rationale, signed with the same key, but saying that the model wrote it.
    signer = Signer.load(key)
    told = (await audited(serve, key, rationale=["It flows.", "It ends."]))[0]["record"]
    told["rationales"][0]["finish_reason"] = "stop"
    told["options"]["max_rationale_tokens"] = 8
    line = json.dumps({**signer.sign(told), "input": TEXTS[0]})
    assert (await verify([line]))[1][0]["verdict"] == "identical"
    code, findings = await verify([line], "--write-again")
    assert findings[0]["verdict"] == "rewritten"
    assert code == UNSOUND


async def test_a_stream_has_a_record_too(serve: Serve, key: Path, verify: Verify) -> None:
    service = await serve(audit_key=key)
    body = {"input": TEXTS[0], "stream": True, "audit": True}
    events = (await service.client.post("/embed", json=body)).text
    item = json.loads(events.split("event: embedding\ndata: ")[1].split("\n")[0])
    assert (await verify([json.dumps({**item["audit"], "input": TEXTS[0]})]))[1][0]["verdict"] == "identical"


async def test_without_a_key_a_record_is_refused_and_with_one_its_public_half_is_told(serve: Serve, key: Path) -> None:
    service = await serve()
    for more in ({}, {"stream": True}):
        error = (await service.embed(422, input="x", audit=True, **more))["error"]
        assert error["param"] == "audit"
    assert service.engine.calls == 0
    assert (await service.embed(input="x"))["data"][0]["audit"] is None
    assert (await service.client.get("/info")).json()["audit_key"] is None
    service = await serve(audit_key=key)
    assert (await service.client.get("/info")).json()["audit_key"] == Signer.load(key).public
    assert "PRIVATE" not in (await service.client.get("/info")).text


async def test_a_key_is_made_once_and_read_by_its_owner_alone(
    tmp_path: Path, verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.pem"
    assert await verify.run("audit", "key", str(path)) == 0
    public = capsys.readouterr().out
    assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "public.pem").write_text(public)
    line = json.dumps(Signer.load(path).sign({"format": 1, "input_sha256": "0"}))
    verify.key = tmp_path / "public.pem"
    assert (await verify([line], "--signatures"))[0] == 0
    assert await verify.run("audit", "key", str(path)) == 1
    for broken in (b"", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"):
        path.write_bytes(broken)
        with pytest.raises(KeyUnusable, match=r"new\.pem"):
            Signer.load(path)
        with pytest.raises(KeyUnusable):
            signing.public_key(path)


def test_a_lone_surrogate_is_hashed_as_it_is_read() -> None:
    assert signing.text_hash("a \ud800") == signing.text_hash("a \ufffd") != signing.text_hash("a ")


@given(seed=st.integers(0, 2**32 - 1), dimensions=st.sampled_from([1, 7, 256]), far=st.floats(1e-6, 1.0))
def test_a_sketch_tells_about_how_far_a_vector_is(seed: int, dimensions: int, far: float) -> None:
    rng = np.random.default_rng(seed)
    vector = unit(rng.standard_normal(dimensions)).astype(np.float32)
    other = (vector + far * unit(rng.standard_normal(dimensions))).astype(np.float32)
    apart = float(np.linalg.norm(other.astype(np.float64) - vector.astype(np.float64)))
    assert signing.distance(vector, signing.sketch(vector)) < 1e-6
    assert apart / 4 - 1e-6 <= signing.distance(other, signing.sketch(vector)) <= 4 * apart + 1e-6
