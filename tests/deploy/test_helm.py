"""The chart: rendered by Helm's own library, every object valid, and what the objects promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from pydantic import SecretStr

from grace_server.index.qdrant_index import connect
from grace_server.routes import cohere, embed, openai, tei
from grace_server.settings import Settings
from tests.deploy import settings_schema
from tests.support import dockerfile

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/grace"
VERSIONS = ("1.29", "1.33", "1.37")  # the oldest that Chart.yaml allows, to the newest whose schemas there are
CUSTOM = {"ScaledObject", "ServiceMonitor"}  # of operators, whose schemas Kubernetes does not have

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "gpus": 2,
        "model": "/models/qwen",
        "settings": {"max_queued_requests": 8192, "qdrant_url": "http://qdrant:6333"},
        "models": {"existingClaim": "models", "tokenSecret": "hub"},
        "apiKeys": {"keys": ["0123456789abcdef", "fedcba9876543210"]},
        "auditKey": {"existingSecret": "signing"},
        "qdrantKey": {"existingSecret": "qdrant"},
        "embed": {"autoscaling": {"enabled": True, "kind": "keda"}},
        "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls", "annotations": {"a": "b"}},
        "index": {"storage": {"className": "fast"}},
        "tracing": {"enabled": True},
        "monitoring": {"serviceMonitor": True},
        "networkPolicy": {"to": [{"ports": [{"port": 9000}]}]},
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "podAnnotations": {"c": "d"},
        "imagePullSecrets": [{"name": "registry"}],
    },
    "hpa": {"embed": {"autoscaling": {"enabled": True, "kind": "hpa"}}, "apiKeys": {"existingSecret": "mine"}},
    "embedding only": {"index": {"enabled": False}, "models": {"offline": False}, "ingress": {"enabled": True}},
    "search only": {"embed": {"enabled": False}, "networkPolicy": {"enabled": False}, "ingress": {"enabled": True}},
}


def files_of(values: dict[str, Any], name: str = "grace") -> dict[str, str]:
    return helm_python.Chart.load(CHART).render(values, name=name, namespace="search")


def rendered(values: dict[str, Any], name: str = "grace") -> dict[tuple[str, str], dict[str, Any]]:
    """Every object of a release, by kind and name."""
    files = files_of(values, name)
    documents = [
        document
        for path, text in files.items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents), "two objects of one name"
    return found


def pods(objects: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    return [o["spec"]["template"] for (kind, _), o in objects.items() if kind in ("Deployment", "StatefulSet")]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_helm_lints_it_and_every_object_is_valid(values: dict[str, Any]) -> None:
    assert helm_python.lint(CHART, values, strict=True)["errors"] == []
    objects = rendered(values)
    for (kind, _), document in objects.items():
        for version in VERSIONS if kind not in CUSTOM else ():
            kubernetes_validate.validate(document, version, strict=True)


def test_the_cases_render_every_template() -> None:
    seen = set()
    for values in CASES.values():
        seen |= {path.rpartition("/")[2] for path, text in files_of(values).items() if text.strip()}
    assert seen == {path.name for path in (CHART / "templates").iterdir() if not path.name.startswith("_")}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"gpus": -1}, "gpus"),
        ({"replicas": 3}, "replicas"),
        ({"embed": {"autoscaling": {"kind": "vpa"}}}, "kind"),
        ({"apiKeys": {"keys": ["short"]}}, "keys"),
        ({"apiKeys": {"keys": ["0123456789abcdef,1"]}}, "keys"),
        ({"apiKeys": {"keys": ["0123456789 abcdef"]}}, "keys"),
        ({"apiKeys": {"keys": ["0123456789äbcdef"]}}, "keys"),
        ({"settings": {"max_queued_request": 8192}}, "max_queued_request"),
        ({"settings": {"max_queued_requests": -1}}, "max_queued_requests"),
        ({"settings": {"dtype": "float16"}}, "dtype"),
        ({"settings": {"cache": "no"}}, "cache"),
        *(({"settings": {name: "x"}}, name) for name in sorted(settings_schema.NOT_HERE)),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], told: str) -> None:
    with pytest.raises(helm_python.HelmError, match=told):
        helm_python.Chart.load(CHART).validate_schema(values)


def test_a_key_of_any_characters_that_the_service_takes_is_taken() -> None:
    key = "".join(map(chr, range(0x21, 0x7F))).replace(",", "")  # a comma separates keys
    assert len(Settings(api_keys=key).api_keys) == 1
    helm_python.Chart.load(CHART).validate_schema({"apiKeys": {"keys": [key]}})


def test_the_schema_knows_the_settings_of_the_service() -> None:
    text = settings_schema.SCHEMA.read_text(encoding="utf-8")
    assert text == settings_schema.renewed(text), "run: python -m tests.deploy.settings_schema"


def test_it_takes_every_default_and_what_the_service_would_take_apart() -> None:
    defaults = Settings().model_dump(mode="json", exclude=settings_schema.NOT_HERE)
    assert defaults.keys() == settings_schema.properties().keys()
    for settings in (defaults, {"model_aliases": "a,b", "engine_args": '{"seed": 1}', "queue_timeout_s": 30}):
        helm_python.Chart.load(CHART).validate_schema({"settings": settings})


def test_what_the_image_sets_is_refused_since_it_would_win_over_the_file() -> None:
    names = dockerfile.read(ROOT / "Dockerfile")["cuda"].environment()
    image = {name.removeprefix("GRACE_").lower() for name in names if name.startswith("GRACE_")}
    assert image == {"host", "port", "data_dir"}
    assert image <= settings_schema.NOT_HERE


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_the_settings_it_writes_are_settings(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(values)
    file = tmp_path / "grace.yaml"
    file.write_text(objects["ConfigMap", "grace"]["data"]["grace.yaml"])
    monkeypatch.setenv("GRACE_CONFIG", str(file))
    settings = Settings()
    assert settings.model == values.get("model", "grace-tiny")
    assert settings.tensor_parallel_size == max(1, values.get("gpus", 0))
    assert settings.tracing == values.get("tracing", {}).get("enabled", False)
    for pod in pods(objects):
        [container] = pod["spec"]["containers"]
        for variable in container["env"]:
            if variable["name"].startswith("GRACE_"):
                assert variable["name"].removeprefix("GRACE_").lower() in Settings.model_fields


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_pods_run_without_rights_and_fit_the_image(values: dict[str, Any]) -> None:
    stage = dockerfile.read(ROOT / "Dockerfile")["cuda"]
    user = int(stage.all("USER")[0].rest.partition(":")[0])
    for pod in pods(rendered(values)):
        spec, [container] = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == user
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {stage.environment()[name] for name in ("GRACE_DATA_DIR", "HF_HOME", "HOME")} <= mounted
        assert str(container["ports"][0]["containerPort"]) == stage.environment()["GRACE_PORT"]
        # The index's data folder is a claim of its set, not a volume of its pod.
        declared = {volume["name"] for volume in spec["volumes"]} | {"data"}
        assert {mount["name"] for mount in container["volumeMounts"]} <= declared


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_probes_and_the_end_of_a_pod_are_those_of_the_service(values: dict[str, Any]) -> None:
    objects = rendered(values)
    drain = yaml.safe_load(objects["ConfigMap", "grace"]["data"]["grace.yaml"])["drain_timeout_s"]
    for pod in pods(objects):
        [container] = pod["spec"]["containers"]
        paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
        assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800
        assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + 5 + 15


def test_an_index_has_one_writer_and_a_disk_that_stays() -> None:
    index = rendered({})["StatefulSet", "grace-index"]["spec"]
    assert index["replicas"] == 1
    [claim] = index["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert index["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert not any(name.endswith("index") for kind, name in rendered(CASES["hpa"]) if kind.startswith("Horizontal"))


def test_gpus_are_asked_for_and_the_model_is_spread_over_them() -> None:
    objects = rendered(CASES["everything"])
    for pod in pods(objects):
        [container] = pod["spec"]["containers"]
        assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": 2}
        assert container["image"] == "grace:0.1.0"
    for pod in pods(rendered({})):
        [container] = pod["spec"]["containers"]
        assert "nvidia.com/gpu" not in container["resources"]["limits"]
        assert container["image"] == "grace:0.1.0-cpu"


@pytest.mark.parametrize(
    ("gpus", "sizes", "tensor"),
    [
        (4, {}, 4),
        (2, {"data_parallel_size": 2}, 1),
        (8, {"pipeline_parallel_size": 2, "data_parallel_size": 2}, 2),
        (4, {"tensor_parallel_size": 2, "data_parallel_size": 2}, 2),
    ],
)
def test_copies_and_stages_of_the_model_take_their_part_of_the_gpus(
    gpus: int, sizes: dict[str, int], tensor: int
) -> None:
    written = yaml.safe_load(rendered({"gpus": gpus, "settings": sizes})["ConfigMap", "grace"]["data"]["grace.yaml"])
    settings = Settings(**written)
    assert settings.tensor_parallel_size == tensor
    assert tensor * settings.pipeline_parallel_size * settings.data_parallel_size == gpus


@pytest.mark.parametrize(
    ("gpus", "sizes"),
    [(1, {"data_parallel_size": 2}), (3, {"pipeline_parallel_size": 2}), (4, {"tensor_parallel_size": 2})],
)
def test_parts_that_do_not_make_the_gpus_are_refused(gpus: int, sizes: dict[str, int]) -> None:
    with pytest.raises(helm_python.HelmError, match=f"gpus is {gpus}: it has to be the product"):
        rendered({"gpus": gpus, "settings": sizes})


def test_the_page_pushes_the_images_that_the_chart_asks_for() -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    [repository] = re.findall(r"--set image\.repository=(\S+)", page)
    for gpus, target in ((1, "cuda"), (0, "cpu")):
        pod, *_ = pods(rendered({"gpus": gpus, "image": {"repository": repository}}))
        image = pod["spec"]["containers"][0]["image"]
        assert f"docker tag grace:{target} {image} && docker push {image}\n" in page


def test_keys_come_from_a_secret_and_are_nowhere_else() -> None:
    objects = rendered(CASES["everything"])
    secret = objects.pop(("Secret", "grace-keys"))
    assert secret["stringData"]["keys"] == "0123456789abcdef,fedcba9876543210"
    assert "0123456789abcdef" not in str(objects)
    for values, name in ((CASES["everything"], "grace-keys"), (CASES["hpa"], "mine")):
        for pod in pods(rendered(values)):
            [container] = pod["spec"]["containers"]
            [source] = [e["valueFrom"]["secretKeyRef"] for e in container["env"] if e["name"] == "GRACE_API_KEYS"]
            assert source == {"name": name, "key": "keys"}


def test_other_keys_replace_the_pods_so_that_a_revoked_one_opens_nothing() -> None:
    before, after, settings = (
        {
            pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod["metadata"]["annotations"]
            for pod in pods(found)
        }
        for found in (
            rendered({"apiKeys": {"keys": ["0123456789abcdef", "fedcba9876543210"]}}),
            rendered({"apiKeys": {"keys": ["fedcba9876543210"]}}),
            rendered({"apiKeys": {"keys": ["fedcba9876543210"]}, "service": {"port": 80}}),
        )
    )
    assert before.keys() == {"embed", "index"}
    for component, noted in before.items():
        assert noted != after[component]
        assert after[component] == settings[component], "what concerns no pod replaces none"


def test_prometheus_sends_one_of_the_keys() -> None:
    values = {"apiKeys": {"keys": ["0123456789abcdef", "fedcba9876543210"]}, "monitoring": {"serviceMonitor": True}}
    objects = rendered(values)
    secret = objects["Secret", "grace-keys"]["stringData"]
    sent = scraped(objects)
    assert sent["name"] == "grace-keys"
    assert SecretStr(secret[sent["key"]]) in Settings(api_keys=secret["keys"]).api_keys
    own = {"apiKeys": {"existingSecret": "mine"}, "monitoring": {"serviceMonitor": True}}
    assert scraped(rendered(own)) == {"name": "mine", "key": "keys"}
    own["monitoring"]["keyEntry"] = "prometheus"  # type: ignore[assignment]
    assert scraped(rendered(own)) == {"name": "mine", "key": "prometheus"}


def scraped(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, str]:
    [endpoint] = objects["ServiceMonitor", "grace"]["spec"]["endpoints"]
    found: dict[str, str] = endpoint["authorization"]["credentials"]
    return found


def test_what_to_try_first_sends_a_key_where_one_is_needed() -> None:
    [open_notes] = [text for path, text in files_of({}).items() if path.endswith("NOTES.txt")]
    assert "authorization" not in open_notes
    assert "No keys are set" in open_notes
    for name in ("everything", "hpa"):
        [notes] = [text for path, text in files_of(CASES[name]).items() if path.endswith("NOTES.txt")]
        assert "curl -s http://127.0.0.1:8000/embed -H 'authorization: Bearer KEY'" in notes
        assert "No keys are set" not in notes


def test_the_key_that_signs_is_a_file_of_its_secret_for_the_pods_group_alone() -> None:
    for pod in pods(rendered(CASES["everything"])):
        spec, [container] = pod["spec"], pod["spec"]["containers"]
        [volume] = [v for v in spec["volumes"] if v.get("secret")]
        assert volume["secret"] == {
            "secretName": "signing",
            "defaultMode": 0o440,
            "items": [{"key": "key", "path": "key"}],
        }
        [mount] = [m for m in container["volumeMounts"] if m["name"] == volume["name"]]
        assert mount["readOnly"]
        [path] = [e["value"] for e in container["env"] if e["name"] == "GRACE_AUDIT_KEY"]
        assert path == mount["mountPath"] + "/key"
        [source] = [e["valueFrom"]["secretKeyRef"] for e in container["env"] if e["name"] == "GRACE_QDRANT_API_KEY"]
        assert source == {"name": "qdrant", "key": "key"}
    for pod in pods(rendered({})):
        assert not any(v.get("secret") for v in pod["spec"]["volumes"])


def test_the_token_of_the_hub_comes_from_its_secret() -> None:
    for pod in pods(rendered({"models": {"offline": False, "tokenSecret": "hub"}})):
        [container] = pod["spec"]["containers"]
        [source] = [e["valueFrom"]["secretKeyRef"] for e in container["env"] if e["name"] == "HF_TOKEN"]
        assert source == {"name": "hub", "key": "token"}
    assert "HF_TOKEN" not in str(rendered({}))


def test_the_page_s_pod_for_snapshots_takes_the_claim_of_the_index() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    [pod] = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    for version in VERSIONS:
        kubernetes_validate.validate(pod, version, strict=True)
    [mount] = pod["spec"]["containers"][0]["volumeMounts"]
    [volume] = pod["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    index = rendered({})["StatefulSet", "grace-index"]["spec"]
    claim = index["volumeClaimTemplates"][0]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == f"{claim}-grace-index-0"
    [container] = index["template"]["spec"]["containers"]
    assert {"name": claim, "mountPath": mount["mountPath"]} in container["volumeMounts"]
    theirs = index["template"]["spec"]["securityContext"]
    assert pod["spec"]["securityContext"] == theirs
    assert pod["spec"]["containers"][0]["securityContext"].items() <= container["securityContext"].items()


def test_the_queue_decides_how_many_pods_there_are() -> None:
    objects = rendered(CASES["everything"])
    assert "replicas" not in objects["Deployment", "grace-embed"]["spec"]
    scaled = objects["ScaledObject", "grace-embed"]["spec"]
    [trigger] = scaled["triggers"]
    assert scaled["scaleTargetRef"] == {"name": "grace-embed"}
    assert "grace_queued_requests" in trigger["metadata"]["query"]
    hpa = rendered(CASES["hpa"])["HorizontalPodAutoscaler", "grace-embed"]["spec"]
    assert hpa["scaleTargetRef"]["name"] == "grace-embed"
    assert hpa["metrics"][0]["pods"]["metric"]["name"] == "grace_queued_requests"
    assert rendered({})["Deployment", "grace-embed"]["spec"]["replicas"] == 2


def test_services_budgets_and_the_policy_select_the_pods() -> None:
    for values in CASES.values():
        objects = rendered(values)
        labels = [pod["metadata"]["labels"] for pod in pods(objects)]
        for (kind, _), document in objects.items():
            match kind:
                case "Service":
                    wanted = document["spec"]["selector"]
                case "PodDisruptionBudget":
                    wanted = document["spec"]["selector"]["matchLabels"]
                case "NetworkPolicy":
                    wanted = document["spec"]["podSelector"]["matchLabels"]
                case "ServiceMonitor":
                    wanted = document["spec"]["selector"]["matchLabels"]
                case _:
                    continue
            assert any(wanted.items() <= present.items() for present in labels), (kind, wanted)


def test_the_network_is_closed_but_for_what_is_named() -> None:
    policy = rendered({})["NetworkPolicy", "grace"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert egress({}) == []
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == ["http"]
    assert egress(CASES["everything"]) == [4318, 6333, 9000]
    assert egress(CASES["embedding only"]) == [443]


def egress(values: dict[str, Any]) -> list[int]:
    """The ports that pods may reach besides those of DNS."""
    rules = rendered(values)["NetworkPolicy", "grace"]["spec"]["egress"]
    dns, *others = [[port["port"] for port in rule["ports"]] for rule in rules]
    assert dns == [53, 53]
    return [port for ports in others for port in ports]


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://collector:4318", 4318),
        ("http://collector/", 80),
        ("https://collector/v1:2", 443),
        ("http://user:1234@collector:4318", 4318),
        ("http://[fd00::12]:4318/", 4318),
        ("https://[fd00::12]", 443),
    ],
)
def test_the_way_to_the_collector_is_open(url: str, port: int) -> None:
    assert egress({"tracing": {"enabled": True, "endpoint": url}}) == [port]


@pytest.mark.parametrize(
    "url",
    [
        "http://qdrant:6333",
        "http://qdrant",
        "https://qdrant/a:1",
        "https://qdrant:443",
        "http://[fd00::12]:80",
    ],
)
def test_the_way_to_qdrant_is_open_at_the_port_its_client_takes(url: str) -> None:
    client: Any = connect(url)._client
    assert egress({"settings": {"qdrant_url": url}}) == [client._port]


def test_an_ingress_controller_is_let_in_where_there_is_an_ingress() -> None:
    def sources(values: dict[str, Any]) -> list[Any]:
        rules = rendered(values)["NetworkPolicy", "grace"]["spec"]["ingress"]
        return [source for rule in rules for source in rule["from"]]

    own, nginx = {"podSelector": {}}, {"kubernetes.io/metadata.name": "ingress-nginx"}
    assert sources({}) == [own]
    assert sources({"ingress": {"enabled": True}}) == [own, {"namespaceSelector": {"matchLabels": nginx}}]
    other = {"namespaceSelector": {"matchLabels": {"a": "b"}}}
    chosen = {"ingress": {"enabled": True}, "networkPolicy": {"fromIngress": [other]}}
    assert sources(chosen) == [own, other]
    assert sources({"networkPolicy": {"from": []}}) == []


def test_every_path_of_the_ingress_ends_at_a_service() -> None:
    for case in ("everything", "embedding only", "search only"):
        objects = rendered(CASES[case])
        [rule] = objects["Ingress", "grace"]["spec"]["rules"]
        paths = {path["path"]: path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
        assert paths["/"] == ("grace-embed" if case == "embedding only" else "grace-index")
        assert all(("Service", name) in objects for name in paths.values())


def test_every_wire_format_of_embeddings_goes_to_the_pods_there_are_many_of() -> None:
    routes = [route for part in (embed, openai, cohere, tei) for route in part.router.routes]
    first = {"/" + route.path.split("/")[1] for route in routes}  # type: ignore[attr-defined]
    [rule] = rendered(CASES["everything"])["Ingress", "grace"]["spec"]["rules"]
    paths = {p["path"] for p in rule["http"]["paths"] if p["backend"]["service"]["name"] == "grace-embed"}
    assert paths == first


def test_long_release_names_make_names_that_fit() -> None:
    for kind, name in rendered({}, name="a-very-long-name-of-a-release-that-somebody-chose-it"):
        assert len(name) <= 63, (kind, name)
