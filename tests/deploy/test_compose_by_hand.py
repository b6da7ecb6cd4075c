"""The compose file's service and its Prometheus, started by hand as the file says: the dashboard is full of numbers.

    GRACE_TEST_COMPOSE=1 python -m pytest --log-cli-level=INFO tests/deploy/test_compose_by_hand.py

The bundled model on vLLM, and Prometheus at its own pace: it takes minutes.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support import dockerfile
from tests.support.monitoring import DEPLOY, panels, prometheus, without_numbers
from tests.support.serving import serving

ASKED = "GRACE_TEST_COMPOSE"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())["services"]
STAGES = dockerfile.read(DEPLOY.parent / "Dockerfile")
RATE_INTERVAL = "60s"  # Grafana's $__rate_interval: four scrapes


def as_compose_has_it(text: str, places: Mapping[str, Path]) -> str:
    """Variables at their defaults, and a container's folder at the place it has on this machine."""
    text = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", text)
    names = "|".join(places)
    return re.sub(rf"(^|=)({names})(?=/|$)", lambda found: f"{found[1]}{places[found[2]]}", text)


@pytest.mark.slow
@pytest.mark.skipif(ASKED not in os.environ, reason=f"takes minutes: set {ASKED}=1")
@pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus: Debian's package prometheus has it")
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_every_query_of_the_dashboard_has_numbers_and_every_rule_is_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "httpx")  # of the log, what was counted is wanted
    stage = STAGES[SERVICES["grace"]["build"]["target"]]
    # The volumes and the temporary folder of the service.
    places = {inside: tmp_path / inside.strip("/") for inside in ("/data", "/models", "/tmp")}
    for place in places.values():
        place.mkdir()
    told = stage.environment() | SERVICES["grace"]["environment"]
    variables = {name: as_compose_has_it(value, places) for name, value in told.items() if name != "PATH"}
    assert variables["GRACE_MODEL"] == "grace-tiny"
    # Compose opens the port to this machine only, and there is no container around it here.
    with serving(tmp_path / "log", variables=variables | {"GRACE_HOST": "127.0.0.1", "GRACE_PORT": "0"}) as service:
        folder = tmp_path / "prometheus"
        shutil.copytree(DEPLOY / "prometheus", folder)
        configuration = folder / "prometheus.yml"
        [name] = re.findall(r"\[(\w+:\d+)\]", configuration.read_text())
        configuration.write_text(configuration.read_text().replace(name, service.removeprefix("http://")))
        homes = {"/etc/prometheus": folder, "/prometheus": folder / "data"}
        flags = [as_compose_has_it(flag, homes) for flag in SERVICES["prometheus"]["command"]]
        queries = [query for _, query in panels()]
        with prometheus(folder, flags) as monitor:
            begun = time.monotonic()
            assert not without_numbers(service, monitor, queries, rate_interval=RATE_INTERVAL, patience_s=480)
            seconds = time.monotonic() - begun
            groups = httpx.get(f"{monitor}/api/v1/rules").json()["data"]["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert {rule["health"] for rule in rules} == {"ok"}
            raised = [rule["name"] for rule in rules if rule["type"] == "alerting" and rule["state"] == "firing"]
            assert not raised
            [target] = httpx.get(f"{monitor}/api/v1/targets").json()["data"]["activeTargets"]
            assert target["health"] == "up"
    logging.getLogger(__name__).info(
        "%d queries had numbers in %.0f s, %d rules were evaluated, no alert was raised",
        len(queries), seconds, len(rules),
    )  # fmt: skip
