"""The one-pass engine on a GPU: exactness against a float32 Transformers forward, and speed. `--list` names the parts.

    python bench/gpu.py --out FOLDER                    all parts
    python bench/gpu.py --out FOLDER float32 v1_float32   these
    python bench/gpu.py --out FOLDER --small            of next to no size: whether the script runs, on a CPU too

Exactness: every vector and segment sum of some hundred texts of mixed length (modes `reason` and `direct`, greedy and
sampled, long and short budgets) is held against a forward over exactly the token ids that were pooled. Parts differ in
numbers' type, in vLLM's model runner (V2 is its default, V1 the older one) and in what they force upon it: prompts in
pieces, pre-emption by a cache too small. Each also runs its texts twice, and ends a third of them midway.

Speed, three arms in turns, as in one_pass.py:
  plain      vLLM writes rationales, nothing is pooled
  one pass   vLLM writes them and the states are summed in the same pass (ours)
  two step   vLLM writes them, then Transformers runs prompt + rationale again, batches sorted by length
Then one request alone, and how long after the step before its last a vector is there.

Each part has a process of its own, a log and a limit of time, so that none stops another. FOLDER/gpu.json is written
anew after each part, FOLDER/gpu.log grows; parts of exactness run a few at a time, those of speed alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[0] = str(ROOT)  # this folder would shadow the standard library's http

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bench._shared import WORDS, about, ratios, with_interval

V1 = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
LOG_BYTES = 400_000  # of one part's log, the end of it
TOKENS_AT_ONCE = 16_384  # of the second step, in one forward
SHAPE_1B5 = {  # Qwen2.5-1.5B
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}
SHAPE_SMALL = SHAPE_1B5 | {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 16_384,
    "max_position_embeddings": 1024,
}


@dataclass(frozen=True)
class Part:
    run: Callable[[Asked], Any]
    about: str
    dtype: str = "float32"
    alone: bool = False  # of speed: nothing else may run
    limit_s: float = 150.0
    environment: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of the engine, beside the usual


@dataclass(frozen=True)
class Asked:
    """What a part's process is told."""

    part: Part
    small: bool
    figures: Callable[..., None]  # keeps what is known so far


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PART")
    parser.add_argument("--out", type=Path, help="folder of gpu.json and gpu.log")
    parser.add_argument("--at-once", type=int, default=4, help="parts of exactness at a time")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds for all; what is not over then is ended")
    parser.add_argument("--small", action="store_true", help="tiny shapes and few texts")
    parser.add_argument("--eager", action="store_true", help="neither compiled nor as graphs, if that is what breaks")
    parser.add_argument("--extra", type=json.loads, default={}, help="more of vLLM's engine arguments, as JSON")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # a part's own process, and where figures go
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:20} {part.about}" for name, part in PARTS.items()))
        return 0
    if unknown := set(options.names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.inside:
        inside(options)
        return 0
    if not options.out:
        parser.error("--out is needed")
    return Run(options).all()


class Run:
    """All parts that were asked for, each in a process of its own."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.names: list[str] = options.names or list(PARTS)
        self.end = time.monotonic() + options.budget
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.log").write_text("")
        self.work = Path(tempfile.gettempdir()) / "grace-gpu"  # what is compiled is found again by the next run
        self.work.mkdir(exist_ok=True)
        self.figures: dict[str, Any] = {"about": about() | {"gpu": gpu(), "parts": self.names}}
        self.writing = threading.Lock()

    def all(self) -> int:
        exact = [name for name in self.names if not PARTS[name].alone]
        speed = [name for name in self.names if PARTS[name].alone]
        with ThreadPoolExecutor(max_workers=self.options.at_once) as pool:
            list(pool.map(self.one, exact))
        for name in speed:
            self.one(name)
        failed = [name for name in self.names if not self.figures.get(name, {}).get("ok")]
        print(f"failed: {', '.join(failed)}" if failed else "all parts ran", flush=True)
        return bool(failed)

    def one(self, name: str) -> None:
        part, start = PARTS[name], time.monotonic()
        log, figures = self.work / f"{name}.log", self.work / f"{name}.json"
        figures.unlink(missing_ok=True)
        limit = min(part.limit_s, self.end - start)
        if limit < 5:
            self.keep(name, {"ok": False, "error": "no time was left"}, "")
            return
        command = [sys.executable, __file__, name, "--inside", str(figures)]
        command += ["--extra", json.dumps(self.options.extra)]
        command += [flag for flag in ("--small", "--eager") if getattr(self.options, flag[2:])]
        # A cache of its own: parts that compile at the same time are not to meet in one.
        cache, known = self.work / f"cache-{name}", Path.home() / ".cache" / "vllm" / "modelinfos"
        if known.is_dir():  # what vLLM has found out about its models, in a process that imports it again
            shutil.copytree(known, cache / known.name, dirs_exist_ok=True)
        given = {"VLLM_CACHE_ROOT": str(cache), "PYTHONUNBUFFERED": "1"} | part.environment
        with log.open("wb") as written:
            process = subprocess.Popen(
                command, stdout=written, stderr=written, env=os.environ | given, start_new_session=True
            )
            try:
                code: int | str = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                code = f"stopped after {limit:.0f} s"
            finally:
                end_group(process.pid)  # vLLM's engine too, which outlives a part that fell over
        found = json.loads(figures.read_text()) if figures.exists() else {}
        text = log.read_bytes()[-LOG_BYTES:].decode(errors="replace")
        if code == 0:
            found["ok"] = True
        else:
            found |= {"ok": False, "error": code, "log": text[-1500:]}
        found["seconds"] = round(time.monotonic() - start, 1)
        self.keep(name, found, text)

    def keep(self, name: str, found: dict[str, Any], log: str) -> None:
        told = {key: brief(value) for key, value in found.items() if key != "log"}
        with self.writing:
            self.figures[name] = found
            beside = self.out / "gpu.json.new"
            beside.write_text(json.dumps(self.figures, indent=2) + "\n")
            beside.replace(self.out / "gpu.json")
            with (self.out / "gpu.log").open("a") as file:
                file.write(f"\n===== {name}\n{log}\n")
            print(f"== {name}: {json.dumps(told)}", flush=True)
            if not found.get("ok"):
                print(log[-1200:], flush=True)


def brief(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.4g}")
        case list():
            return [brief(one) for one in value]
        case dict():
            return {key: brief(one) for key, one in value.items()}
    return value


def end_group(pid: int) -> None:
    """Kill a part's process and its children: its session is its own, so nobody else is in the group."""
    import psutil

    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess, PermissionError):
            continue


def gpu() -> dict[str, Any]:
    asked = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(asked.split(","), told.stdout.strip().split(", "), strict=False))


def inside(options: Any) -> None:
    """One part, in its own process."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")  # which kernels were chosen stands in the log
    # Triton's attention, the one for float32, would round its factors to TF32.
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    part, path = PARTS[options.names[0]], options.inside
    if options.eager:
        part.options["enforce_eager"] = True
    part.options["extra"] = part.options.get("extra", {}) | options.extra
    known: dict[str, Any] = {}

    def figures(**new: Any) -> None:
        known.update(new)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(known))
        beside.replace(path)

    code = 1
    try:
        asyncio.run(part.run(Asked(part, options.small, figures)))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)  # after an error vLLM's threads would keep this process; its engine is ended from outside


# ---- exactness


async def exact(asked: Asked) -> None:
    import torch

    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = Checkpoint.load()
    prompter = Prompter(checkpoint)
    start = time.perf_counter()
    engine = await start_one_pass(checkpoint, prompter, asked, max_num_seqs=asked.part.options.get("max_num_seqs", 64))
    asked.figures(start_s=time.perf_counter() - start, runner=runner(engine))
    oracle = Oracle(checkpoint, device, asked.part.dtype)
    jobs = exact_jobs(prompter, 24 if asked.small else 160)
    made = await asyncio.gather(*(engine.represent(job) for job in jobs))
    asked.figures(**oracle.judge(jobs, made), **await engine.diagnostics())
    again = await asyncio.gather(*(engine.represent(job) for job in jobs))
    asked.figures(**repeated(jobs, made, again))
    asked.figures(**await cancelled(engine, prompter, oracle, jobs, made))
    asked.figures(**await streamed_and_probed(engine, oracle, jobs[:12]))
    asked.figures(at_the_end=await engine.diagnostics())
    await engine.close()


def exact_jobs(prompter: Any, count: int) -> list[Any]:
    """Texts of 1 to 600 words, short ones most, as queries and documents, with budgets of 1 token to the longest."""
    rng, jobs = random.Random(0), []
    for i in range(count):
        words = rng.choice((1, 3, 8, 20, 20, 60, 60, 200, 600))
        text = f"{i} " + " ".join(rng.choice(WORDS) + rng.choice(("", "", "", ",", ".")) for _ in range(words))
        chosen: dict[str, Any] = {"role": rng.choice(("query", "document"))}
        if i % 4 == 3:
            chosen["mode"] = "direct"
        elif i % 4 == 2:
            chosen |= {"max_rationale_tokens": 1 + i % 40, "temperature": 1.0}
        elif i % 16 == 0:
            chosen["max_rationale_tokens"] = prompter.max_rationale_tokens
        jobs.append(prompter.job(text, **chosen))
    return jobs


class Oracle:
    """Plain Transformers forwards in float32, and in the engine's type for what rounding alone does."""

    def __init__(self, checkpoint: Any, device: str, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.device, self.dtype = device, dtype
        self.models = {
            kind: AutoModelForCausalLM.from_pretrained(str(checkpoint.folder), dtype=getattr(torch, kind))
            .to(device)
            .eval()
            for kind in {"float32", dtype}
        }

    def states(self, job: Any, got: Any, kind: str = "float32") -> Any:
        """(T, H) float64 states of the pooled positions."""
        import torch

        written = got.rationale.token_ids if got.rationale and job.max_new_tokens else ()
        ran = written if not written or got.rationale.finish_reason == "stop" else written[:-1]
        with torch.inference_mode():
            ids = torch.tensor([[*job.prompt_ids, *ran]], device=self.device)
            return self.models[kind].base_model(ids).last_hidden_state[0].double().cpu().numpy()[job.pooled_from :]

    def judge(self, jobs: Sequence[Any], made: Sequence[Any]) -> dict[str, Any]:
        """How far vectors, segment sums and last states are from the oracle's. Counts are exact, or there is an error
        before: `represent` refuses others.
        """
        import numpy as np

        vectors, errors, segments, totals, lasts, rounding = [], [], [], [], [], []
        for job, got in zip(jobs, made, strict=True):
            states = self.states(job, got)
            mine, right = got.vector("mean").astype(np.float64), unit(states.mean(axis=0))
            vectors.append(1 - mine @ right / np.linalg.norm(mine))
            errors.append(np.abs(mine - right).max())
            sums = [one.sum(axis=0) for one in np.split(states, np.cumsum(got.counts)[:-1])]
            segments += [distance(a, b) for a, b in zip(got.sums, sums, strict=True)]
            totals.append(distance(got.sums.sum(axis=0, dtype=np.float64), states.sum(axis=0)))
            lasts.append(distance(got.last, states[-1]))
            if self.dtype != "float32":
                rounding.append(1 - unit(self.states(job, got, self.dtype).mean(axis=0)) @ right)
        reasons = [one.rationale.finish_reason for one in made if one.rationale]
        figures = {
            "texts": len(jobs),
            "rationales": len(reasons),
            "ended_by_themselves": reasons.count("stop"),
            "states_pooled": sum(one.pooled_tokens for one in made),
            "segments": len(segments),
            "one_minus_cosine_max": max(vectors),
            "one_minus_cosine_median": statistics.median(vectors),
            "unit_vector_error_max": max(errors),
            "segment_sum_error_max": max(segments),
            "sum_of_segments_error_max": max(totals),
            "last_state_error_max": max(lasts),
        }
        if rounding:
            figures |= {
                "rounding_one_minus_cosine_max": max(rounding),
                "rounding_one_minus_cosine_median": statistics.median(rounding),
            }
        return {key: float(value) if not isinstance(value, int) else value for key, value in figures.items()}


def unit(vector: Any) -> Any:
    import numpy as np

    return vector / np.linalg.norm(vector)


def distance(a: Any, b: Any) -> float:
    """|a - b| / |b|."""
    import numpy as np

    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


def repeated(jobs: Sequence[Any], made: Sequence[Any], again: Sequence[Any]) -> dict[str, Any]:
    """The same texts a second time, sampled ones left out."""
    import numpy as np

    pairs = [(a, b) for job, a, b in zip(jobs, made, again, strict=True) if job.temperature == 0]
    same = [(a, b) for a, b in pairs if ids_of(a) == ids_of(b)]
    return {
        "greedy_texts": len(pairs),
        "same_rationale_again": len(same),
        "same_bits_again": sum(a.sums.tobytes() == b.sums.tobytes() for a, b in same),
        "again_error_max": max(float(np.abs(a.vector() - b.vector()).max()) for a, b in same),
    }


def ids_of(representation: Any) -> Any:
    return representation.rationale and representation.rationale.token_ids


async def cancelled(
    engine: Any, prompter: Any, oracle: Oracle, jobs: Sequence[Any], made: Sequence[Any]
) -> dict[str, Any]:
    """End every third request midway: the others stay right, and nothing is held afterwards."""
    tasks = [asyncio.create_task(engine.represent(job)) for job in jobs]
    ended = 0
    for task in tasks[::3]:
        await asyncio.sleep(0.002)
        ended += task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [(job, one) for job, one in zip(jobs, answers, strict=True) if not isinstance(one, BaseException)]
    broken = [one for one in answers if isinstance(one, Exception)]
    if broken:
        raise broken[0]
    await engine.represent(prompter.job("one more step"))
    for _ in range(50):
        if not (held := (await engine.diagnostics())["held"]):
            break
        await asyncio.sleep(0.1)
    sample = kept[::4]
    found = oracle.judge([job for job, _ in sample], [one for _, one in sample])
    return {
        "cancelled": ended,
        "held_after_cancelling": held,
        "beside_cancelled_one_minus_cosine_max": found["one_minus_cosine_max"],
        "beside_cancelled_segment_sum_error_max": found["segment_sum_error_max"],
    }


async def streamed_and_probed(engine: Any, oracle: Oracle, jobs: Sequence[Any]) -> dict[str, Any]:
    """Streams end in the same states; a probe meets each of them."""
    import numpy as np

    from grace.representation import replay, written_ids

    async def last_of(job: Any) -> Any:
        return [item async for item in engine.stream(job)][-1]

    streamed = await asyncio.gather(*(last_of(job) for job in jobs))
    found = oracle.judge(jobs, streamed)
    probe = np.random.default_rng(0).standard_normal(streamed[0].sums.shape[1]).astype(np.float32)
    again = [replay(job, written_ids(job, one), one.segments, probe) for job, one in zip(jobs, streamed, strict=True)]
    dots = [one.dots for one in await asyncio.gather(*(engine.represent(job) for job in again))]
    right = [oracle.states(job, one) @ probe for job, one in zip(jobs, streamed, strict=True)]
    return {
        "streamed_one_minus_cosine_max": found["one_minus_cosine_max"],
        "probe_error_max": max(distance(a, b) for a, b in zip(dots, right, strict=True)),
    }


# ---- speed


async def speed(asked: Asked) -> None:
    """At the bundled model: rationales end by themselves, after some 30 tokens."""
    from grace.checkpoint import Checkpoint

    await compare(asked, Checkpoint.load(), texts=24 if asked.small else 1024, words=20, tokens=48)


async def speed_1b5(asked: Asked) -> None:
    """At the shape of Qwen2.5-1.5B, weights made up: rationales have the length of their budget."""
    from grace.checkpoint import Checkpoint

    with tempfile.TemporaryDirectory() as folder:
        made_up(Path(folder), SHAPE_SMALL if asked.small else SHAPE_1B5)
        tokens = 16 if asked.small else 128
        await compare(asked, Checkpoint.load(folder), texts=8 if asked.small else 256, words=100, tokens=tokens)


def made_up(folder: Path, shape: dict[str, Any]) -> None:
    """The bundled tokenizer and template around a config of another shape, with a file of weights that nobody reads."""
    import torch
    from safetensors.torch import save_file

    from grace import checkpoint

    # Its weights are not asked for: this part runs where they were left behind.
    for file in (Path(checkpoint.__file__).parent / "models" / checkpoint.BUNDLED_NAME).iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    layers = ["full_attention"] * shape["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config | shape | {"layer_types": layers}))
    settings = json.loads((folder / "grace.json").read_text())
    (folder / "grace.json").write_text(json.dumps(settings | {"max_input_tokens": 512, "max_rationale_tokens": 128}))
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors")


async def compare(asked: Asked, checkpoint: Any, *, texts: int, words: int, tokens: int) -> None:
    import torch

    from bench.one_pass import generate, stop
    from grace.prompt import Prompter

    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompter = Prompter(checkpoint)
    start = time.perf_counter()
    one_pass, plain = await asyncio.gather(
        start_one_pass(checkpoint, prompter, asked), asyncio.to_thread(start_plain, checkpoint, prompter, asked)
    )
    asked.figures(start_s=time.perf_counter() - start, runner=runner(one_pass))
    second = load_second(checkpoint, device, asked.part.dtype)
    rounds = 2 if asked.small else 8

    async def throughput() -> None:
        seconds: dict[str, list[float]] = {"plain": [], "one_pass": [], "two_step": []}
        second_step: list[float] = []
        written = 0
        for number in range(rounds + 2):
            if number == 2:  # the first two warm up
                seconds, second_step, written = {arm: [] for arm in seconds}, [], 0
            for arm in [*seconds][number % 3 :] + [*seconds][: number % 3]:
                batch = sentences(texts, words, seed=f"{arm} {number}")
                jobs = [prompter.job(text, max_rationale_tokens=tokens) for text in batch]
                begun = time.perf_counter()
                if arm == "one_pass":
                    made = await asyncio.gather(*(one_pass.represent(job) for job in jobs))
                    vectors = [one.vector() for one in made]
                    written += sum(one.completion_tokens for one in made)
                else:
                    ids = await generate(plain, prompter, jobs)
                    if arm == "two_step":
                        between = time.perf_counter()
                        vectors = encode(second, device, jobs, ids)
                        second_step.append(time.perf_counter() - between)
                seconds[arm].append(time.perf_counter() - begun)
            assert len(vectors) == texts
        asked.figures(
            **{f"{arm}_texts_per_s": texts / statistics.median(times) for arm, times in seconds.items()},
            **with_interval("one_pass_vs_plain", ratios(seconds["plain"], seconds["one_pass"])),
            **with_interval("one_pass_vs_two_step", ratios(seconds["two_step"], seconds["one_pass"])),
            second_step_s=statistics.median(second_step),
            arm_seconds={arm: statistics.median(times) for arm, times in seconds.items()},
            tokens_written_per_s=written / sum(seconds["one_pass"]),
            rationale_tokens_mean=written / rounds / texts,
            texts=texts,
            words=words,
            rounds=rounds,
        )

    async def latency() -> None:
        waited: dict[str, list[float]] = {"plain": [], "one_pass": []}
        gaps, lasts = [], []
        for number, text in enumerate(sentences(4 if asked.small else 20, words, seed="alone")):
            for arm in [*waited][:: 1 if number % 2 else -1]:
                job = prompter.job(f"{arm[0]}{text}", max_rationale_tokens=tokens)
                begun = time.perf_counter()
                if arm == "one_pass":
                    (await one_pass.represent(job)).vector()
                else:
                    await generate(plain, prompter, [job])
                waited[arm].append(time.perf_counter() - begun)
            times = await moments(one_pass, prompter.job(f"s{text}", max_rationale_tokens=tokens))
            gaps += [b - a for a, b in itertools.pairwise(times[1:-1])]
            lasts.append(times[-1] - times[-2])
        asked.figures(
            **{f"alone_{arm}_ms": 1000 * statistics.median(times) for arm, times in waited.items()},
            **with_interval("alone_one_pass_vs_plain", ratios(waited["plain"], waited["one_pass"])),
            step_ms_p50=1000 * statistics.median(gaps) if gaps else None,
            last_step_to_vector_ms_p50=1000 * statistics.median(lasts),
            last_step_to_vector_ms_max=1000 * max(lasts),
        )

    await throughput()
    await latency()
    asked.figures(at_the_end=await one_pass.diagnostics())
    stop(plain)
    await one_pass.close()


def sentences(count: int, words: int, *, seed: str) -> list[str]:
    """Texts of about so many words, other ones for another seed: a prefix cache knows none of them."""
    rng = random.Random(seed)
    return [
        f"{i} {seed} " + " ".join(rng.choices(WORDS, k=rng.randint(words * 3 // 4, words * 5 // 4))) + "."
        for i in range(count)
    ]


async def moments(engine: Any, job: Any) -> list[float]:
    """When each of a streamed request's steps was heard of; at last, when its vector was there."""
    heard: list[float] = []
    original = engine._engine.generate

    async def listening(*arguments: Any, **named: Any) -> Any:
        async for output in original(*arguments, **named):
            heard.append(time.perf_counter())
            yield output

    engine._engine.generate = listening
    try:
        async for item in engine.stream(job):
            if not isinstance(item, str):
                item.vector()
                heard[-1] = time.perf_counter()  # the last step's news, and the vector with it
    finally:
        engine._engine.generate = original
    return heard


def load_second(checkpoint: Any, device: str, dtype: str) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = getattr(torch, dtype)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(checkpoint.folder)), dtype=kind)
    return model.eval().base_model


def encode(model: Any, device: str, jobs: Sequence[Any], written: Sequence[Sequence[int]]) -> list[Any]:
    """The mean states of prompt + rationale, by a second forward; the longest texts first, together."""
    import torch

    sequences = [[*job.prompt_ids, *ids] for job, ids in zip(jobs, written, strict=True)]
    order = sorted(range(len(jobs)), key=lambda i: -len(sequences[i]))
    vectors: dict[int, Any] = {}
    while order:
        width = len(sequences[order[0]])
        part, order = order[: max(1, TOKENS_AT_ONCE // width)], order[max(1, TOKENS_AT_ONCE // width) :]
        ids = torch.tensor([sequences[i] + [0] * (width - len(sequences[i])) for i in part]).to(device)
        lengths = torch.tensor([len(sequences[i]) for i in part]).to(device)
        firsts = torch.tensor([jobs[i].pooled_from for i in part]).to(device)
        places = torch.arange(width, device=device)
        real = places < lengths[:, None]
        pooled = real & (places >= firsts[:, None])
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=real.long(), use_cache=False).last_hidden_state
            means = (states.float() * pooled[..., None]).sum(dim=1) / pooled.sum(dim=1, keepdim=True)
            means = torch.nn.functional.normalize(means, dim=1)
        vectors |= zip(part, means.cpu().numpy(), strict=True)
    return [vectors[i] for i in range(len(jobs))]


# ---- engines


def engine_options(asked: Asked, *, max_num_seqs: int) -> Any:
    import torch

    from grace.engines.vllm import VllmOptions

    chosen: dict[str, Any] = {"dtype": asked.part.dtype, "max_num_seqs": max_num_seqs, **asked.part.options}
    extra = dict(chosen.pop("extra", {}))
    if torch.cuda.is_available():
        # Several engines share the card: each takes what it is given, and none measures what is left.
        chosen |= {"kv_cache_gib": 6.0 if asked.part.alone else 2.0, "gpu_memory_utilization": 0.1}
    else:
        chosen |= {"kv_cache_gib": 0.2}
        if asked.part.alone:  # smaller blocks are ours alone there
            extra |= {"block_size": 128}
    return VllmOptions(**chosen, extra=extra)


async def start_one_pass(checkpoint: Any, prompter: Any, asked: Asked, *, max_num_seqs: int = 256) -> Any:
    from grace.engines.vllm import VllmEngine

    engine = VllmEngine(checkpoint, prompter, engine_options(asked, max_num_seqs=max_num_seqs))
    await engine.start()
    return engine


def start_plain(checkpoint: Any, prompter: Any, asked: Asked) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from grace.engines.vllm_start import arguments, prepare_environment

    on_cpu = prepare_environment()
    same = arguments(checkpoint, prompter, engine_options(asked, max_num_seqs=256), on_cpu=on_cpu)
    del same["worker_cls"], same["additional_config"]  # vLLM's own worker and scheduler
    return AsyncLLM.from_engine_args(AsyncEngineArgs(**same, disable_log_stats=True))


def runner(engine: Any) -> dict[str, Any]:
    """What vLLM chose for itself."""
    config = engine._engine.vllm_config
    compiled = config.compilation_config
    return {
        "v2": bool(getattr(config, "use_v2_model_runner", False)),
        "async_scheduling": bool(config.scheduler_config.async_scheduling),
        "graphs": str(compiled.cudagraph_mode),
        "compiled": str(compiled.mode),
        "block_size": config.cache_config.block_size,
        "prefix_caching": bool(config.cache_config.enable_prefix_caching),
    }


PIECES = {"max_num_batched_tokens": 128}
# A text of the bundled model's 1,024 positions takes 64 blocks of 16 tokens: a few texts fill these.
FEW_BLOCKS = {"kv_cache_blocks": 72, "max_num_seqs": 32}
DUMMY = {"extra": {"load_format": "dummy"}, "max_num_batched_tokens": 8192}

PARTS = {
    "float32": Part(exact, "exactness in float32"),
    "bfloat16": Part(exact, "exactness in bfloat16", "bfloat16"),
    "pieces": Part(exact, "prompts in pieces of 128 tokens", options=PIECES),
    "preemption": Part(exact, "a cache too small", options=FEW_BLOCKS),
    "both_bfloat16": Part(exact, "pieces and a cache too small", "bfloat16", options=PIECES | FEW_BLOCKS),
    "v1_float32": Part(exact, "exactness, model runner V1", environment=V1),
    "v1_bfloat16": Part(exact, "exactness in bfloat16, V1", "bfloat16", environment=V1),
    "v1_both": Part(exact, "pieces and a cache too small, V1", environment=V1, options=PIECES | FEW_BLOCKS),
    "tf32": Part(exact, "float32 with attention as it comes", environment={"TRITON_F32_DEFAULT": "tf32"}),
    "speed_1b5": Part(speed_1b5, "speed at Qwen2.5-1.5B's shape", "bfloat16", True, 150.0, options=DUMMY),
    "speed_tiny": Part(speed, "speed of grace-tiny", "bfloat16", True, 120.0, options={"max_num_batched_tokens": 8192}),
}


if __name__ == "__main__":
    sys.exit(main())
