"""What runs without containers: the systemd unit and the SLURM script."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser

from grace_server import life
from grace_server.settings import Settings

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/grace.service"
SCRIPT = ROOT / "deploy/slurm/train.sbatch"
# Of sbatch(1); those we use must be among them.
DIRECTIVES = {
    "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem", "time", "requeue", "open-mode",
    "output",
}  # fmt: skip


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_takes_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    here = tmp_path / "grace.service"
    here.write_text(
        UNIT.read_text().replace("/opt/grace/bin/grace-serve", f"{Path(sys.executable).parent}/grace-serve")
    )
    checked = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert not checked.stderr.strip()
    closed = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=40", here], capture_output=True, text=True
    )
    assert closed.returncode == 0, closed.stdout


def test_the_unit_stops_restarts_and_configures_as_the_service_wants() -> None:
    service = unit()
    assert service["KillMode"] == "mixed"
    assert float(service["TimeoutStopSec"]) >= Settings().drain_timeout_s + 15
    assert service["RestartPreventExitStatus"] == f"{life.EXIT_USAGE} {life.EXIT_MODEL}"
    for pair in service["Environment"].split():
        name = pair.partition("=")[0]
        assert not name.startswith("GRACE_") or name.removeprefix("GRACE_").lower() in Settings.model_fields


def test_the_unit_may_use_the_gpus() -> None:
    """They are devices, and each of these denies some: up to systemd 252 at least ProtectClock allows clocks alone."""
    assert not {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"} & set(unit())


@pytest.mark.skipif(not shutil.which("jq"), reason="no jq")
def test_the_page_s_reader_of_the_journal_takes_lines_that_are_no_json() -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    [reader] = re.findall(r"^journalctl .* \| (jq .*)$", page, re.MULTILINE)
    lines = '{"level": "INFO"}\nGRACE serves grace-tiny at http://127.0.0.1:8000\n'
    done = subprocess.run(reader, shell=True, input=lines, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"level": "INFO"' in done.stdout
    assert '"GRACE serves grace-tiny' in done.stdout


def test_the_page_s_environment_file_is_one_the_unit_reads(tmp_path: Path) -> None:
    """The line of the page is run, into a folder that is not there yet. What it writes has to be settings."""
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^printf .*grace\.env", page, re.MULTILINE)
    [optional] = re.findall("^EnvironmentFile=-(.*)$", UNIT.read_text(), re.MULTILINE)
    assert line.endswith(f" {optional}")
    subprocess.run(line.replace(optional, f"{tmp_path}{optional}"), shell=True, check=True)
    written = tmp_path / optional.lstrip("/")
    assert written.stat().st_mode & 0o777 == 0o600
    pairs = dict(setting.split("=", 1) for setting in written.read_text().splitlines())
    assert pairs.pop("HF_HUB_OFFLINE") == "0", "the unit's own is 1, with a cache that is empty at first"
    assert {name.removeprefix("GRACE_").lower() for name in pairs} <= Settings.model_fields.keys()


def test_shellcheck_has_nothing_to_say_of_the_script() -> None:
    for command in (["bash", "-n"], [str(Path(sys.executable).parent / "shellcheck")]):
        done = subprocess.run([*command, SCRIPT], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_directives_are_sbatchs() -> None:
    lines = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {re.split("[= ]", line.removeprefix("--"))[0] for line in lines} == DIRECTIVES
    body = SCRIPT.read_text().split("set -euo pipefail")[1]
    assert "#SBATCH" not in body, "sbatch reads directives up to the first command only"


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Two nodes of two GPUs: `srun` runs its command once for each, `accelerate` writes down what it is asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    commands = {
        "scontrol": 'test "$*" = "show hostnames node[1-2]"; printf "node1\\nnode2\\n"',
        "srun": f'while [[ $1 == --* ]]; do echo "$1" >> {tmp_path}/srun; shift; done\n'
        'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "accelerate": f'printf "%s\\n" "$@" > {tmp_path}/node-$SLURM_NODEID',
    }
    for name, body in commands.items():
        (tools / name).write_text(f"#!/bin/bash\nset -e\n{body}\n")
        (tools / name).chmod(0o755)
    return {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "GRACE_LAUNCH": str(tools / "accelerate"),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_CPUS_PER_TASK": "8",
    }


@pytest.mark.parametrize("left", [[], ["checkpoint-5"], ["checkpoint-5", "checkpoint-5/grace.json"]])
def test_each_node_starts_accelerate_with_its_rank_and_the_same_words(
    cluster: dict[str, str], tmp_path: Path, left: list[str]
) -> None:
    """A job that was requeued goes on from a checkpoint that is whole; a first save that was cut short is none."""
    recipe, output = "training/recipes/cpu-smoke.yaml", tmp_path / "a folder"
    for name in left:
        (output / name).mkdir(parents=True)
    words = ["bash", SCRIPT, recipe, output, "learning_rate=2e-6", "columns={query: a b}"]
    done = subprocess.run(words, env=cluster, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "srun").read_text().split() == ["--cpus-per-task=8", "--kill-on-bad-exit=1"]
    for rank in (0, 1):
        asked, *arguments = (tmp_path / f"node-{rank}").read_text().splitlines()
        assert asked == "launch"
        known = launch_command_parser().parse_args(arguments)
        assert (known.machine_rank, known.num_machines, known.num_processes) == (rank, 2, 4)
        assert (known.main_process_ip, known.main_process_port) == ("node1", 24711)
        assert (ROOT / known.config_file).is_file()
        assert known.module
        assert known.training_script == "grace_training.cli"
        assert known.training_script_args == [
            "--config",
            recipe,
            f"output_dir={output}",
            *(["--resume"] if len(left) == 2 else []),
            "learning_rate=2e-6",
            "columns={query: a b}",
        ]


def test_the_page_s_job_trains_with_as_many_rollouts_as_its_recipe() -> None:
    """The recipe's accumulation is for one GPU."""
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    [job] = re.findall(r"^sbatch (?:.*\\\n)*.*$", page, re.MULTILINE)
    _, nodes, script, recipe, _, *settings = shlex.split(job.replace("\\\n", ""))
    assert ROOT / script == SCRIPT
    [gpus] = re.findall(r"--gpus-per-node=(\d+)", SCRIPT.read_text())
    chosen = dict(setting.split("=") for setting in settings)
    published = yaml.safe_load((ROOT / recipe).read_text(encoding="utf-8"))
    processes = int(nodes.removeprefix("--nodes=")) * int(gpus)
    assert int(chosen["gradient_accumulation_steps"]) * processes == published["gradient_accumulation_steps"]
    assert "data" in chosen
    assert "data" not in published
    assert all(setting in SCRIPT.read_text() for setting in settings)


def test_without_a_recipe_it_says_how_to_call_it(cluster: dict[str, str]) -> None:
    done = subprocess.run(["bash", SCRIPT], env=cluster, capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr
