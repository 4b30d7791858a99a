"""The manifests in deploy/kubernetes are valid and restricted, and agree with settings, routes and commands."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import kubernetes_validate
import pytest
import yaml

from ops.cli import cli
from ops.runner.process import DRAIN_MAX_S
from projections.settings import VARIABLES, Settings, load
from tests.support.processes import System, eventually

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = ("1.31", "1.37")
"""The oldest and the newest version that the manifests are checked against."""
OF_THE_OPERATOR = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds of the Prometheus Operator, whose schemas are not part of Kubernetes."""
OF_KUSTOMIZE = {"Kustomization", "Component"}
ROLES = {
    "membership-api": {"database_url", "jwt_secret"},
    "membership-projector": {"database_url", "nats_url"},
    "membership-jobs": {"database_url", "nats_url"},
    "membership-migrate": {"database_url"},
}
"""What the process of each workload requires."""
SECRETS = {
    "MEMBERSHIP_DATABASE_URL": "postgresql://membership@db/membership",
    "MEMBERSHIP_READ_DATABASE_URL": "postgresql://membership@standby1,standby2/membership",
    "MEMBERSHIP_NATS_URL": "tls://nats:4222",
    "MEMBERSHIP_JWT_SECRET": "s" * 32,
}
MEBIBYTE = 1024 * 1024
SUPERVISOR_MB = 41
"""The second process of an API (CHANGELOG.md)."""


def documents(folder: str = "**") -> Iterator[dict[str, Any]]:
    for path in sorted(FOLDER.glob(f"{folder}/*.yaml")):
        yield from (document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document)


def of_kind(*kinds: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] in kinds]


def name_of(document: dict[str, Any]) -> str:
    return str(document["metadata"]["name"])


def workloads() -> dict[str, dict[str, Any]]:
    """Return the pod templates by name."""
    return {name_of(document): document["spec"]["template"] for document in of_kind("Deployment", "Job")}


def container(name: str) -> Any:
    (only,) = workloads()[name]["spec"]["containers"]
    return only


def environment(name: str) -> dict[str, str]:
    """Return the variables of a workload, with stand-ins for its secrets."""
    configured = container(name)
    maps = {name_of(document): document["data"] for document in of_kind("ConfigMap")}
    result: dict[str, str] = {}
    for source in configured.get("envFrom", []):
        result |= maps[source["configMapRef"]["name"]]
    for variable in configured["env"]:
        assert set(variable["valueFrom"]) == {"secretKeyRef"}, "a secret is not in a manifest"
        result[variable["name"]] = SECRETS[variable["name"]]
    return result


def settings(name: str) -> Settings:
    return load(ROLES[name], environment(name))


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid_in_the_oldest_and_newest_version(version: str) -> None:
    checked = 0
    for document in documents():
        if document["kind"] not in OF_THE_OPERATOR | OF_KUSTOMIZE:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked >= 15


def test_a_wrong_manifest_would_be_refused() -> None:
    (deployment,) = (document for document in of_kind("Deployment") if name_of(document) == "membership-api")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES[-1], strict=True)


def test_every_kustomization_lists_exactly_the_files_beside_it() -> None:
    for path in FOLDER.glob("*/kustomization.yaml"):
        listed = yaml.safe_load(path.read_text(encoding="utf-8"))
        paths = [*listed["resources"], *listed.get("components", [])]
        assert all((path.parent / entry).exists() for entry in paths)
        own = {entry for entry in listed["resources"] if not entry.startswith("..")}
        assert own == {file.name for file in path.parent.glob("*.yaml")} - {path.name}


def test_every_variable_is_a_setting_and_every_role_gets_what_it_requires() -> None:
    for name in ROLES:
        assert set(environment(name)) <= set(VARIABLES)
        assert settings(name).log_format == "json" or name == "membership-migrate"
    patched = (FOLDER / "example" / "kustomization.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"/data/(MEMBERSHIP_[A-Z_]+)", patched)) <= set(VARIABLES)


def test_every_workload_runs_an_existing_command() -> None:
    assert {name: container(name)["args"] for name in workloads()} == {
        "membership-api": ["serve"],
        "membership-projector": ["project"],
        "membership-jobs": ["jobs", "run"],
        "membership-migrate": ["migrate"],
    }
    assert {"serve", "project", "migrate", "jobs"} <= cli.commands.keys()


def test_ports_are_those_of_the_settings() -> None:
    api, projector = settings("membership-api"), settings("membership-projector")
    assert container("membership-api")["ports"] == [{"name": "http", "containerPort": api.http_port}]
    assert container("membership-projector")["ports"] == [
        {"name": "metrics", "containerPort": projector.projector_http_port}
    ]
    assert (api.http_host, projector.projector_http_host) == ("0.0.0.0", "0.0.0.0")
    (service,) = of_kind("Service")
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]


async def test_every_probe_and_every_scrape_path_answers(system: System) -> None:
    urls = {"membership-api": system.api_url, "membership-projector": system.projector_url}
    checked = set()
    async with httpx.AsyncClient() as client:
        for name, url in urls.items():
            found = container(name)
            probes = [found[kind]["httpGet"] for kind in found if kind.endswith("Probe")]
            assert len(probes) >= 2
            for probe in [*probes, {"path": "/metrics", "port": found["ports"][0]["name"]}]:
                assert probe["port"] == found["ports"][0]["name"]

                async def answers(target: str = f"{url}{probe['path']}") -> bool:
                    return (await client.get(target)).status_code == httpx.codes.OK

                await eventually(answers, f"{name} answers {probe['path']}")
                checked.add(probe["path"])
    scraped = {
        endpoint["path"]
        for monitor in of_kind("ServiceMonitor", "PodMonitor")
        for endpoint in monitor["spec"].get("endpoints", []) + monitor["spec"].get("podMetricsEndpoints", [])
    }
    assert scraped <= checked


def test_monitors_and_policies_select_what_exists() -> None:
    labels = {name: template["metadata"]["labels"] for name, template in workloads().items()}
    (service,) = of_kind("Service")

    def selects(selector: dict[str, str], target: dict[str, str]) -> bool:
        return selector.items() <= target.items()

    (service_monitor,), (pod_monitor,) = of_kind("ServiceMonitor"), of_kind("PodMonitor")
    assert selects(service_monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert selects(pod_monitor["spec"]["selector"]["matchLabels"], labels["membership-projector"])
    assert selects(service["spec"]["selector"], labels["membership-api"])
    for kind in ("PodDisruptionBudget", "Deployment"):
        for document in of_kind(kind):
            assert selects(document["spec"]["selector"]["matchLabels"], labels[name_of(document)])
    denied, *allowed = (document["spec"] for document in of_kind("NetworkPolicy"))
    assert denied["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in denied
    assert "egress" not in denied
    for own in labels.values():
        assert selects(denied["podSelector"]["matchLabels"], own), "everything is denied before something is allowed"
    for policy in allowed:
        assert any(selects(policy["podSelector"]["matchLabels"], own) for own in labels.values())


def test_policies_allow_the_ports_of_the_stores() -> None:
    policies = {name_of(document): document["spec"] for document in of_kind("NetworkPolicy")}
    for name in ROLES:
        ports = {port["port"] for rule in policies[name]["egress"] for port in rule["ports"]}
        nats = {urlsplit(SECRETS["MEMBERSHIP_NATS_URL"]).port} if settings(name).nats_url else set()
        expected = {5432} | nats
        assert expected <= ports <= expected | {443}


@pytest.mark.parametrize("name", ROLES)
def test_a_pod_meets_the_restricted_standard(name: str) -> None:
    pod = workloads()[name]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert str(pod["securityContext"]["runAsUser"]) in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(set(volume) <= {"name", "emptyDir", "secret", "projected"} for volume in pod["volumes"])
    assert all(volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume)
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert re.fullmatch(r"campaign-membership:\d+\.\d+\.\d+", container(name)["image"]), "never :latest"
    assert container(name)["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container(name)["resources"]["limits"].keys() == {"memory"}, "a CPU limit would only throttle"


def measured_mebibytes(process: str) -> float:
    """Return the most memory that docs/benchmarks.md reports for a process."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    (found,) = re.findall(rf"\| M1 \| memory of the {process}[^|]*\| (\d+) MB \|", text)
    beside = SUPERVISOR_MB if process == "API" else 0
    return (int(found) + beside) * 1_000_000 / MEBIBYTE


@pytest.mark.parametrize(("name", "process"), [("membership-api", "API"), ("membership-projector", "projector")])
def test_memory_is_requested_as_measured(name: str, process: str) -> None:
    resources = container(name)["resources"]
    requested, limit = (int(resources[key]["memory"].removesuffix("Mi")) for key in ("requests", "limits"))
    assert measured_mebibytes(process) <= requested
    assert 1.3 * measured_mebibytes(process) <= limit


def test_a_pod_may_finish_what_it_does() -> None:
    api, projector = workloads()["membership-api"]["spec"], workloads()["membership-projector"]["spec"]
    assert api["terminationGracePeriodSeconds"] >= settings("membership-api").drain_s + 10
    assert projector["terminationGracePeriodSeconds"] >= 10
    assert workloads()["membership-jobs"]["spec"]["terminationGracePeriodSeconds"] >= DRAIN_MAX_S + 5


def test_the_autoscaler_stays_within_the_connections_of_postgresql() -> None:
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    fragment = (ROOT / "deploy" / "postgresql.conf").read_text(encoding="utf-8")
    (connections,) = re.findall(r"^max_connections = (\d+)$", fragment, re.MULTILINE)
    api = settings("membership-api")
    each = api.http_workers * (api.database_connections_max + 9)
    assert scaler["spec"]["maxReplicas"] * each + 30 <= int(connections)
    assert scaler["spec"]["scaleTargetRef"]["name"] == "membership-api"
    assert scaler["spec"]["minReplicas"] >= 2


def test_the_operators_rules_are_those_of_prometheus() -> None:
    (wrapped,) = of_kind("PrometheusRule")
    plain = (ROOT / "deploy" / "prometheus" / "rules.yaml").read_text(encoding="utf-8")
    assert wrapped["spec"] == yaml.safe_load(plain)


def test_kustomize_renders_the_example() -> None:
    try:
        outcome = subprocess.run(  # noqa: S603 - our own folder
            ["kubectl", "kustomize", FOLDER / "example"],  # noqa: S607 - wherever it is installed
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("kubectl is not installed; the other tests read the same files without it")
    assert outcome.returncode == 0, outcome.stderr
    rendered = [document for document in yaml.safe_load_all(outcome.stdout) if document]
    assert {document["metadata"].get("namespace") for document in rendered} == {"membership", None}
    images = re.findall(r"image: (\S+)", outcome.stdout)
    assert set(images) == {"registry.example/membership:0.1.0"}
