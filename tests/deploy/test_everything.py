"""Every file of deploy/ has a test that renders, lints, starts or runs it; a new one without is a failure here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Which test opens what: a file by its name, all files of a folder by the folder's.
TESTED = {
    "accelerate": "tests/training/test_accelerate.py",
    "compose": "tests/deploy/test_compose.py",
    "grafana/dashboards/grace.json": "tests/support/monitoring.py",
    "grafana/provisioning/dashboards/grace.yml": "tests/deploy/test_monitoring.py",
    "grafana/provisioning/datasources/prometheus.yml": "tests/deploy/test_monitoring.py",
    "helm/grace": "tests/deploy/test_helm.py",
    "image": "tests/deploy/test_image.py",
    "prometheus/prometheus.yml": "tests/deploy/test_monitoring.py",
    "prometheus/rules": "tests/deploy/test_monitoring.py",
    "prometheus/rules_test.yml": "tests/deploy/test_monitoring.py",
    "ray": "tests/deploy/test_ray_files.py",
    "slurm/train.sbatch": "tests/deploy/test_host.py",
    "systemd/grace.service": "tests/deploy/test_host.py",
}


def files() -> list[str]:
    """All that is committed or about to be, as paths below deploy/."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "deploy"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no checkout")
    return [line.removeprefix("deploy/") for line in listed.stdout.splitlines()]


def test_every_file_has_a_test_and_every_entry_a_file() -> None:
    used = set()
    for file in files():
        [entry] = [entry for entry in TESTED if file == entry or file.startswith(f"{entry}/")]
        used.add(entry)
    assert used == TESTED.keys()


@pytest.mark.parametrize(("entry", "test"), TESTED.items())
def test_the_test_opens_it(entry: str, test: str) -> None:
    """By its name, or by that of the folder it lies in."""
    text = (ROOT / test).read_text().replace('" / "', "/")
    names = {entry, f"deploy/{entry}", Path(entry).name, str(Path(entry).parent)} - {"."}
    assert any(f'{name}"' in text or f"{name}/" in text for name in names), (entry, test)
