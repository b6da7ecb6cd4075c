"""The compose files: pinned, closed, and in step with the image, the settings and the monitoring."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from grace_server.settings import Settings
from tests.support import dockerfile

FOLDER = Path(__file__).parents[2] / "deploy/compose"
FILES = ("compose.yaml", "gpu.yaml")
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GPU = yaml.safe_load((FOLDER / "gpu.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
STAGES = dockerfile.read(FOLDER.parents[1] / "Dockerfile")


def test_images_are_pinned_or_built_here() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].partition(":")[2]
        assert "build" in service or tag.lstrip("v")[0].isdigit(), name
    assert {SERVICES["grace"]["build"]["target"], GPU["services"]["grace"]["build"]["target"]} <= set(STAGES)
    assert (FOLDER / SERVICES["grace"]["build"]["context"] / "Dockerfile").is_file()


def test_every_mount_is_a_folder_of_ours_or_a_declared_volume() -> None:
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.replace("${GRACE_MODELS:-models}", "models").split(":")[0]
            if source.startswith(".."):
                assert (FOLDER / source).is_dir(), source
                assert volume.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"], source


def test_ports_are_open_to_this_machine_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_service_is_what_the_image_and_the_settings_say() -> None:
    grace, stage = SERVICES["grace"], STAGES["cpu"]
    for name in grace["environment"]:
        assert _is_setting(name) or name in {*stage.environment(), "HF_TOKEN"}
    assert grace["ports"][0].endswith(":" + stage.environment()["GRACE_PORT"])
    assert grace["read_only"] is True
    assert grace["cap_drop"] == ["ALL"]
    assert int(grace["stop_grace_period"].removesuffix("s")) >= Settings().drain_timeout_s + 15
    targets = {volume.rpartition(":")[2] for volume in grace["volumes"]} | set(grace["tmpfs"])
    assert {stage.environment()[name] for name in ("GRACE_DATA_DIR", "HF_HOME", "HOME")} <= targets


def test_the_image_is_built_with_the_torch_that_the_page_names() -> None:
    page = (FOLDER.parents[1] / "docs/deployment.md").read_text(encoding="utf-8")
    [address] = set(re.findall(r"PIP_EXTRA_INDEX_URL=(https:\S+)", page))
    assert SERVICES["grace"]["build"]["args"] == {"PIP_EXTRA_INDEX_URL": f"${{PIP_EXTRA_INDEX_URL-{address}}}"}


def test_the_page_s_qdrant_is_the_profile_s_and_the_images_have_its_client() -> None:
    page = (FOLDER.parents[1] / "docs/deployment.md").read_text(encoding="utf-8")
    asked = r"^GRACE_QDRANT_URL=http://(\w+):(\d+) docker compose .*--profile qdrant up"
    [(host, port)] = re.findall(asked, page, re.MULTILINE)
    assert SERVICES[host]["profiles"] == ["qdrant"]
    assert SERVICES[host]["ports"][0].endswith(f":{port}")
    assert "GRACE_QDRANT_URL" in SERVICES["grace"]["environment"]
    for lock in ("cpu.lock", "cuda.lock"):
        assert "\nqdrant-client==" in (FOLDER.parent / "image" / lock).read_text()


def test_the_page_s_file_of_further_settings_is_one() -> None:
    page = (FOLDER.parents[1] / "docs/deployment.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [(name, service)] = yaml.safe_load(shown)["services"].items()
    assert name in SERVICES
    assert all(map(_is_setting, service["environment"]))


def _is_setting(variable: str) -> bool:
    return variable.removeprefix("GRACE_").lower() in Settings.model_fields


@pytest.mark.parametrize("file", [".env", "deploy/compose/.env"])
def test_a_file_with_keys_is_not_committed(file: str) -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", file], cwd=FOLDER.parents[1])
    assert ignored.returncode in (0, 128)  # 128: no checkout


def test_prometheus_finds_its_configuration_and_the_service() -> None:
    config = yaml.safe_load((FOLDER.parent / "prometheus/prometheus.yml").read_text())
    [job] = config["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert host in SERVICES
    assert port == STAGES["cpu"].environment()["GRACE_PORT"]
    [mount] = [v for v in SERVICES["prometheus"]["volumes"] if v.startswith("../prometheus")]
    inside = mount.split(":")[1]
    assert f"--config.file={inside}/prometheus.yml" in SERVICES["prometheus"]["command"]


def test_the_key_prometheus_may_need_lies_in_the_folder_it_sees(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(FOLDER.parent / "prometheus", folder)
    file = folder / "prometheus.yml"
    file.write_text(re.sub(r"# (authorization:|  credentials_file:)", r"\1", file.read_text()))
    [job] = yaml.safe_load(file.read_text())["scrape_configs"]
    key = job["authorization"]["credentials_file"]
    assert key == Path(key).name, "relative: to the folder of the configuration"
    ignored = subprocess.run(["git", "check-ignore", "-q", FOLDER.parent / "prometheus" / key], cwd=FOLDER)
    assert ignored.returncode in (0, 128), "a key must not be committed"  # 128: no checkout
    (folder / key).write_text("0123456789abcdef\n")
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "config", file], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_kernels_of_a_gpu_are_compiled_into_the_volume_and_not_into_what_docker_mounts_noexec() -> None:
    found = STAGES["cuda"].environment()
    caches = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE")
    assert all(found[name].startswith(f"{found['GRACE_DATA_DIR']}/") for name in caches)


def test_only_qdrant_has_to_be_asked_for() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"qdrant"}


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="no docker-compose: Debian's package has one")
@pytest.mark.parametrize("files", [FILES[:1], FILES])
def test_compose_itself_reads_them(files: tuple[str, ...], tmp_path: Path) -> None:
    flags = ["--project-directory", str(FOLDER)]
    for file in files:
        # Debian's is from before files could name their project.
        (tmp_path / file).write_text((FOLDER / file).read_text().replace("name: grace\n", "", 1))
        flags += ["-f", str(tmp_path / file)]
    done = subprocess.run(["docker-compose", *flags, "config"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert {"grace", "prometheus", "grafana"} <= set(read)
    assert read["grace"]["build"]["target"] == ("cuda" if len(files) > 1 else "cpu")
