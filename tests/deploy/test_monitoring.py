"""Rules and dashboard ask for series that exist, and Prometheus answers every one of their queries."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from grace_server.metrics import Metrics
from tests.support import monitoring
from tests.support.monitoring import DASHBOARD, DEPLOY, panels, traffic, without_numbers
from tests.support.promql import selectors

PROMETHEUS = DEPLOY / "prometheus"
RULES = [
    rule
    for file in ("recording", "alerts")
    for group in yaml.safe_load((PROMETHEUS / f"rules/{file}.yml").read_text())["groups"]
    for rule in group["rules"]
]
ADDED = {"job", "instance"}  # by Prometheus, to every series it scrapes
ABSENT = "Debian's package prometheus has it"


QUERIES = [*panels(), *((rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES)]


def vllm_names() -> set[str]:
    """What vLLM registers, read off its source: the engine itself is another test's business."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    source = (Path(spec.origin).parent / "v1/metrics/loggers.py").read_text()
    return set(re.findall(r'name="(vllm:\w+)"', source))


@pytest.fixture(scope="module")
def scraped(live_service: str) -> dict[str, set[str]]:
    """The labels of every series that /metrics has, after some traffic."""
    traffic(live_service)
    families = text_string_to_metric_families(httpx.get(f"{live_service}/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    found: dict[str, set[str]] = {sample.name: set() for sample in samples}
    for sample in samples:
        found[sample.name] |= set(sample.labels)
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES, ids=[f"{i} {title}" for i, (title, _) in enumerate(QUERIES)])
def test_every_query_asks_for_series_and_labels_that_are_there(
    scraped: dict[str, set[str]], title: str, query: str
) -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    asked = selectors(query)
    assert asked
    for selector in asked:
        if selector.metric == "up":
            continue
        if selector.metric in recorded:
            level = set(selector.metric.split(":")[0].split("_"))
            assert selector.labels <= level, title
        elif selector.metric.startswith("vllm:"):
            names = vllm_names()
            assert selector.metric in names or re.sub(r"_(bucket|total|count|sum)$", "", selector.metric) in names
        else:
            assert selector.metric in scraped, title
            assert selector.labels - ADDED <= scraped[selector.metric], title


def test_what_we_count_is_shown() -> None:
    shown = {selector.metric for _, query in QUERIES for selector in selectors(query)}
    for family in Metrics().registry.collect():
        assert any(name.startswith(family.name) for name in shown), family.name


def test_the_page_makes_rules_of_the_prometheus_operator_of_the_files(tmp_path: Path) -> None:
    page = (DEPLOY.parent / "docs/deployment.md").read_text(encoding="utf-8")
    [commands] = re.findall(r"^for name in .*?^done$", page, re.MULTILINE | re.DOTALL)
    tool = tmp_path / "kubectl"
    tool.write_text(f"#!/bin/sh\ncat >> {tmp_path}/applied\necho --- >> {tmp_path}/applied\n")
    tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-e", "-c", commands], cwd=DEPLOY.parent, env=environment, check=True)
    *applied, end = yaml.safe_load_all((tmp_path / "applied").read_text())
    assert end is None
    assert {(rule["apiVersion"], rule["kind"]) for rule in applied} == {("monitoring.coreos.com/v1", "PrometheusRule")}
    assert len({rule["metadata"]["name"] for rule in applied}) == len(applied)
    written = {path: yaml.safe_load(path.read_text()) for path in (PROMETHEUS / "rules").iterdir()}
    assert len(applied) == len(written)
    assert all(rule["spec"] in written.values() for rule in applied)


def test_every_rule_is_tested() -> None:
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if "exp_alerts" in case}
    quiet = {
        case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if "exp_alerts" not in case
    }
    asked = " ".join(case["expr"] for test in tests for case in test.get("promql_expr_test", []))
    for rule in RULES:
        if "alert" in rule:
            assert rule["alert"] in fired & quiet, "an alert is tested both raised and not"
            assert set(rule["annotations"]) == {"summary", "action"}
        else:
            assert rule["record"] in asked


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["title"]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}
    assert used <= variables


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
    provisioning = DEPLOY / "grafana/provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards/grace.yml").read_text())["providers"]
    mounts = dict(volume.removesuffix(":ro").split(":") for volume in compose["grafana"]["volumes"])
    assert mounts["../grafana/dashboards"] == provider["options"]["path"]
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert compose[host]["ports"][0].endswith(f":{port}")


@pytest.mark.skipif(not shutil.which("promtool"), reason=f"no promtool: {ABSENT}")
@pytest.mark.parametrize("arguments", [["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]])
def test_promtool_agrees(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def prometheus(live_service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prometheus with our configuration; only the target and the intervals are others."""
    if not shutil.which("prometheus"):
        pytest.skip(f"no prometheus: {ABSENT}")
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(PROMETHEUS / "rules", folder / "rules")
    text = (PROMETHEUS / "prometheus.yml").read_text()
    assert "grace:8000" in text
    text = text.replace("grace:8000", live_service.removeprefix("http://")).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text)
    with monitoring.prometheus(folder, ["--config.file=prometheus.yml", "--storage.tsdb.path=data"]) as url:
        yield url


def test_a_real_prometheus_answers_every_query_of_the_dashboard(live_service: str, prometheus: str) -> None:
    """All but vLLM's: the engine here is the reference one."""
    queries = [query for _, query in panels() if "vllm:" not in query]
    assert not without_numbers(live_service, prometheus, queries, rate_interval="30s", patience_s=240)
