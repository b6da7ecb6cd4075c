"""Modules of the playground that need no browser, run by node; without it the tests are skipped, visibly."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grace_server.routes.playground import FOLDER

SOURCES = "--harmony-json-parse-with-source"  # browsers and Node 22 have it unasked

Run = Callable[..., Any]


@pytest.fixture
def node(tmp_path: Path) -> Run:
    """Runs a script in the folder of the modules; what it leaves in `told`."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    for script in FOLDER.glob("*.js"):
        shutil.copy(script, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')

    def run(script: str, *options: str) -> Any:
        (tmp_path / "run.js").write_text(f"{script}\nconsole.log(JSON.stringify(told));\nprocess.exit();\n")
        command = ["node", *options, "run.js"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


ROWS = """
import { documentsOf, readRows } from "./rows.js";
const lines = `{"id": 1234567890123456789, "text": "first"}
{"id": 1234567890123456790, "text": "second", "ref": -9007199254740993, "far": 1e300, "near": 0.12345678901234567}
{"id": 7, "text": "third"}`;
const of = (content, name, id = "id") => documentsOf(readRows(content, name), { text: ["text"], id }, name);
"""


def test_whole_numbers_of_any_size_keep_their_digits(node: Run) -> None:
    told = 'const told = [of(lines, "a.jsonl"), of(`[${lines.split("\\n").join()}]`, "a.json")];'
    flags = [SOURCES] if subprocess.run(["node", SOURCES, "-e", "0"], capture_output=True).returncode == 0 else []
    for found in node(ROWS + told, *flags):
        assert found["bad"] == []
        documents = [one["document"] for one in found["documents"]]
        assert [one["id"] for one in documents] == ["1234567890123456789", "1234567890123456790", "7"]
        assert documents[1]["metadata"] == {"ref": "-9007199254740993", "far": 1e300, "near": 0.12345678901234567}


def test_where_a_browser_does_not_tell_digits_such_rows_are_left_out(node: Run) -> None:
    older = """
const parse = JSON.parse;
JSON.parse = (text, revive) => parse(text, revive && ((key, value) => revive(key, value)));
let list;
try { of(`[${lines.split("\\n").join()}]`, "a.json") } catch (error) { list = error.message }
const told = { ...of(lines, "a.jsonl"), list };
"""
    told = node(ROWS + older)
    assert [one["document"]["id"] for one in told["documents"]] == ["7"]
    assert [one["line"] for one in told["bad"]] == [1, 2]
    assert all("this browser would round" in one["reason"] for one in told["bad"])
    assert "this browser would round" in told["list"]


def test_rows_without_an_id_are_those_of_their_file(node: Run) -> None:
    told = """
const plain = '{"text": "x"}\\n{"text": "y"}';
const told = ["a.jsonl", "b.jsonl"].map((name) => of(plain, name, "").documents.map((one) => one.document.id));
"""
    assert node(ROWS + told) == [["a.jsonl:1", "a.jsonl:2"], ["b.jsonl:1", "b.jsonl:2"]]


KEYS = """
const stored = new Map([["grace-api-key", "left-by-an-older-page\u2026"]]);
globalThis.sessionStorage = {
  getItem: (name) => stored.get(name) ?? null,
  setItem: (name, value) => stored.set(name, value),
  removeItem: (name) => stored.delete(name),
};
const element = () => ({ hidden: false, value: "", focus() {}, close() { this.onclose(); } });
const elements = { "key-dialog": element(), "key-field": element(), "key-form": element(), "key-wrong": element() };
globalThis.document = { getElementById: (id) => elements[id] };
const typed = ["right\u2026", "\u200bright", "ri ght", " right "];
const saidWrong = [];
elements["key-dialog"].showModal = () => setTimeout(() => {
  saidWrong.push(!elements["key-wrong"].hidden);
  elements["key-field"].value = typed.shift();
  elements["key-form"].onsubmit({ preventDefault() {} });
});
const sent = [];
globalThis.fetch = async (path, { headers }) => {
  new Headers(headers); // as fetch does: what no header holds is a TypeError
  sent.push(headers.authorization ?? null);
  return Response.json({ at: "home" }, { status: headers.authorization === "Bearer right" ? 200 : 401 });
};
const { json } = await import("./api.js");
const after = await json("info");
const told = { after, sent, saidWrong, stored: [...stored.values()] };
"""


def test_a_key_that_no_header_holds_is_asked_for_again_and_never_kept(node: Run) -> None:
    told = node(KEYS)
    assert told["after"] == {"at": "home"}
    assert told["sent"] == [None, "Bearer right"]
    assert told["saidWrong"] == [False, True, True, True]
    assert told["stored"] == ["right"]
