"""deploy/ray: read by Ray's own schema, held against Kubernetes' ones, linted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from grace_server.settings import Settings
from tests.support import dockerfile

ROOT = Path(__file__).parents[2]
RAY = ROOT / "deploy/ray"
SERVE = (RAY / "serve.yaml").read_text(encoding="utf-8")
MANIFEST: list[dict[str, Any]] = list(yaml.safe_load_all((RAY / "rayservice.yaml").read_text(encoding="utf-8")))
SERVICE = next(document for document in MANIFEST if document["kind"] == "RayService")
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
VERSIONS = ("1.29", "1.33", "1.37")


def settings() -> Settings:
    [application] = yaml.safe_load(SERVE)["applications"]
    return Settings(**application["args"])


def test_every_file_is_known() -> None:
    assert {path.name for path in RAY.iterdir()} == {"serve.yaml", "rayservice.yaml", "Dockerfile"}


def test_ray_reads_the_configuration_and_finds_the_application() -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray._common.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    from grace_server.replicas.application import build

    read = ServeDeploySchema.model_validate(yaml.safe_load(SERVE))
    assert import_attr(read.applications[0].import_path) is build
    assert read.applications[0].route_prefix == "/"


def test_the_application_of_the_configuration_has_one_ingress_and_replicas_that_scale() -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from grace_server.replicas.application import build

    [application] = yaml.safe_load(SERVE)["applications"]
    ingress = build(application["args"])._bound_deployment
    engines = ingress.init_args[1]._bound_deployment
    chosen = settings()
    assert (ingress.name, ingress.num_replicas) == ("ingress", 1)
    assert ingress.ray_actor_options["resources"] == chosen.ray_ingress_resources
    scaling = engines._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (chosen.ray_min_replicas, chosen.ray_max_replicas)
    assert scaling.target_ongoing_requests == chosen.ray_target_requests
    assert engines.max_ongoing_requests == chosen.max_running_requests
    assert engines.ray_actor_options["num_gpus"] == chosen.ray_gpus
    assert not engines.init_args[0].api_keys


def test_both_files_say_the_same() -> None:
    assert SERVICE["spec"]["serveConfigV2"] == SERVE


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_pods_and_what_is_beside_them(version: str) -> None:
    for document in MANIFEST:
        if document["kind"] != "RayService":
            kubernetes_validate.validate(document, version, strict=True)
    for group in GROUPS:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, version, strict=True)


def test_a_node_says_to_ray_what_kubernetes_gives_it() -> None:
    for group in GROUPS:
        [container] = group["template"]["spec"]["containers"]
        requests, said = container["resources"]["requests"], group["rayStartParams"]
        assert said["num-cpus"] == requests["cpu"]
        assert said["num-gpus"] == requests.get("nvidia.com/gpu", "0")
    assert CLUSTER["workerGroupSpecs"][0]["maxReplicas"] == settings().ray_max_replicas


def test_the_data_folder_is_where_the_ingress_is_sent() -> None:
    [resource] = settings().ray_ingress_resources
    holders = [group for group in GROUPS if resource in group["rayStartParams"].get("resources", "")]
    assert holders == [CLUSTER["headGroupSpec"]]
    [container] = holders[0]["template"]["spec"]["containers"]
    assert str(settings().data_dir) in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_pods_have_no_rights_and_ray_tells_nobody() -> None:
    for group in GROUPS:
        spec = group["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        [container] = spec["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]


def keys_of(pod: dict[str, Any]) -> dict[str, Any]:
    """Where the container of a pod has its keys from."""
    [container] = pod["spec"]["containers"]
    [variable] = [variable for variable in container["env"] if variable["name"] == "GRACE_API_KEYS"]
    found: dict[str, Any] = variable["valueFrom"]["secretKeyRef"]
    return found


def test_keys_come_from_the_secret_of_the_chart_and_no_pod_starts_without() -> None:
    rendered = helm_python.Chart.load(ROOT / "deploy/helm/grace").render(
        {"apiKeys": {"existingSecret": "grace-keys"}}, name="grace", namespace="search"
    )
    [embed] = [text for path, text in rendered.items() if path.endswith("embed.yaml")]
    charts = keys_of(next(iter(yaml.safe_load_all(embed)))["spec"]["template"])
    for group in GROUPS:
        assert keys_of(group["template"]) == charts
    assert not charts.get("optional", False)


@pytest.mark.parametrize(("keys", "told"), [("", 1), ("0123456789abcdef", 0)])
def test_an_ingress_without_keys_says_so(keys: str, told: int) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    code = "from grace_server.replicas.application import Ingress; from grace_server.settings import Settings; "
    code += f"Ingress(Settings(api_keys={keys!r}), None)"
    logged = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert logged.count("no key is set: whoever reaches the proxy may ask") == told


def test_an_engine_is_ready_without_the_proxy_that_its_node_does_not_have() -> None:
    """KubeRay's own probe of a worker asks port 8000, unless the container has one."""
    chosen = yaml.safe_load(SERVE)
    assert chosen["proxy_location"] == "HeadOnly"
    for group in CLUSTER["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        probe = container["readinessProbe"]
        assert str(chosen["http_options"]["port"]) not in str(probe)
        assert probe["httpGet"] == {"path": "/api/healthz", "port": 52365}


def test_ray_has_the_address_that_the_probe_asks() -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    from ray.dashboard.modules.reporter import healthz_agent

    [container] = CLUSTER["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    asked = container["readinessProbe"]["httpGet"]
    assert asked["port"] == DEFAULT_DASHBOARD_AGENT_LISTEN_PORT
    assert asked["path"] in Path(healthz_agent.__file__).read_text(encoding="utf-8")


def test_the_door_leads_to_the_proxy_and_to_no_engine() -> None:
    [door] = [document for document in MANIFEST if document["kind"] == "Service"]
    labels = CLUSTER["headGroupSpec"]["template"]["metadata"]["labels"]
    assert door["spec"]["selector"] == {**labels, "ray.io/node-type": "head"}  # which KubeRay gives each pod
    [port] = door["spec"]["ports"]
    [container] = CLUSTER["headGroupSpec"]["template"]["spec"]["containers"]
    named = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert named[port["targetPort"]] == port["port"] == yaml.safe_load(SERVE)["http_options"]["port"]


def test_every_claim_a_pod_mounts_is_made_here() -> None:
    claims = {document["metadata"]["name"] for document in MANIFEST if document["kind"] == "PersistentVolumeClaim"}
    for group in GROUPS:
        for volume in group["template"]["spec"]["volumes"]:
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "grace-data") in claims, volume


def test_the_operator_is_let_in_by_the_label_it_has_however_it_was_installed() -> None:
    """By name it is kuberay-operator (Helm) or kuberay (kustomize), as every Ray pod is. Both set the component."""
    [policy] = [document for document in MANIFEST if document["kind"] == "NetworkPolicy"]
    [within, door] = policy["spec"]["ingress"]
    [_, operator] = within["from"]
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert door == {"ports": [{"port": 8000}]}


def test_the_clusters_own_pods_and_no_other_ray_clusters_reach_each_other() -> None:
    [policy] = [document for document in MANIFEST if document["kind"] == "NetworkPolicy"]
    [service] = [document for document in MANIFEST if document["kind"] == "RayService"]
    cluster = service["spec"]["rayClusterConfig"]
    pods = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert policy["spec"]["ingress"][0]["from"][0] == {"podSelector": {"matchLabels": chosen}}
    assert [pod["metadata"]["labels"] for pod in pods] == [chosen] * 2
    assert not any("ray.io/" in name or name.endswith("/name") for name in chosen)  # every Ray cluster's have those


def test_the_manifest_is_of_the_ray_that_was_tested() -> None:
    assert f"ray=={CLUSTER['rayVersion']}" in (ROOT / "deploy/image/ray.lock").read_text().splitlines()


def test_the_image_is_linted_and_ends_without_rights() -> None:
    lint = subprocess.run([Path(sys.executable).parent / "hadolint", RAY / "Dockerfile"], capture_output=True)
    assert lint.returncode == 0, lint.stdout.decode()
    lines = (RAY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001:10001"
    assert "ARG BASE=grace:cuda" in lines
    assert "cuda" in dockerfile.read(ROOT / "Dockerfile")
