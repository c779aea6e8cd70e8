"""The manifests of deploy/kubernetes: what Kubernetes takes, and what fits this program."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from llamastream.config import EngineSettings, ModelSettings, ServeSettings, StoreSettings
from llamastream.keys import Keys
from llamastream.metrics import Metrics
from llamastream.types import EngineState, EngineStatus

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = kubernetes_validate.latest_version()
OWN = ("kustomize.config.k8s.io", "inference.networking.k8s.io", "monitoring.coreos.com")
MANIFESTS = sorted(
    path
    for path in FOLDER.rglob("*.yaml")
    if path.name not in ("kustomization.yaml", "front-end.yaml")  # a patch: whole in its overlay
)
Document = dict[str, Any]

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


def documents(text: str) -> Iterator[Document]:
    yield from (document for document in yaml.safe_load_all(text) if document)


def checked(document: Document) -> None:
    if not document["apiVersion"].startswith(OWN):
        kubernetes_validate.validate(document, VERSION, strict=True)


def built(folder: Path) -> list[Document]:
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return list(documents(done.stdout))


@pytest.fixture(scope="module")
def deployment() -> Document:
    (document,) = documents((FOLDER / "base" / "deployment.yaml").read_text())
    return document


def container(deployment: Document) -> Document:
    (found,) = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_manifest_is_one_of_kubernetes(path: Path) -> None:
    for document in documents(path.read_text()):
        checked(document)


def test_a_misspelt_field_is_found() -> None:
    (budget,) = documents((FOLDER / "base" / "disruption-budget.yaml").read_text())
    budget["spec"]["maxUnavailabel"] = budget["spec"].pop("maxUnavailable")
    with pytest.raises(kubernetes_validate.ValidationError, match="maxUnavailabel"):
        checked(budget)


@needs_kubectl
@pytest.mark.parametrize("overlay", ["base", "overlays/try", "overlays/vllm"])
def test_overlays_build_into_what_kubernetes_takes(overlay: str) -> None:
    found = built(FOLDER / overlay)
    for document in found:
        checked(document)
    (labels,) = (
        d["spec"]["template"]["metadata"]["labels"] for d in found if d["kind"] == "Deployment"
    )
    named = {d["kind"]: d for d in found if d["metadata"]["name"] == "llamastream"}
    selectors = (
        named["Service"]["spec"]["selector"],
        named["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        named["Deployment"]["spec"]["selector"]["matchLabels"],
    )
    for selector in selectors:  # kustomize fills them in; an empty one would take everything
        assert selector and selector.items() <= labels.items()


@needs_kubectl
def test_components_fit_the_base(tmp_path: Path) -> None:
    names = ("inference-pool", "prometheus-operator")
    shutil.copytree(FOLDER, tmp_path / "k")
    (tmp_path / "k" / "mine").mkdir()
    lines = ["resources: [../base]", "components:", *(f"- ../components/{n}" for n in names)]
    (tmp_path / "k" / "mine" / "kustomization.yaml").write_text("\n".join(lines))
    found = {document["kind"]: document for document in built(tmp_path / "k" / "mine")}
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["InferencePool"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (target,) = found["InferencePool"]["spec"]["targetPorts"]
    ports = {p["containerPort"] for p in container(found["Deployment"])["ports"]}
    assert target["number"] in ports
    services = found["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert services.items() <= found["Service"]["metadata"]["labels"].items()


@needs_kubectl
def test_a_front_end_lives_while_no_engine_does() -> None:
    (found,) = (d for d in built(FOLDER / "overlays" / "vllm") if d["kind"] == "Deployment")
    probe = container(found)["livenessProbe"]
    assert "httpGet" not in probe and probe["tcpSocket"] == {"port": "http"}


def test_variables_are_options(deployment: Document) -> None:
    groups = (ModelSettings, EngineSettings, ServeSettings, StoreSettings)
    options = {name.upper() for group in groups for name in group.model_fields}
    given = {entry["name"]: entry for entry in container(deployment)["env"]}
    engines = (FOLDER / "overlays" / "vllm" / "engines.env").read_text()
    given |= {line.partition("=")[0]: {} for line in engines.splitlines()}
    for name in given.keys() - {"HF_HOME"}:
        assert name.removeprefix("LLAMASTREAM_") in options, name
    values = {name: entry["value"] for name, entry in given.items() if "value" in entry}
    assert values["LLAMASTREAM_HOST"] == "0.0.0.0"


def test_a_pod_has_time_to_drain(deployment: Document) -> None:
    sleep = container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= sleep + StoreSettings().drain_timeout + 20


def test_the_autoscaler_goes_by_figures_that_we_have() -> None:
    (scaler,) = documents((FOLDER / "base" / "autoscaler.yaml").read_text())
    status = EngineStatus(EngineState.READY, 1, 1, 0, 0, 1, 1)
    exposed = Metrics(lambda: status, lambda: ()).render().decode()
    names = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]]
    assert names and all(f"\n{name} " in exposed for name in names)


def test_the_key_of_the_try_overlay_opens() -> None:
    key = Keys(path=FOLDER / "overlays" / "try" / "keys.toml").find("try-it")
    assert key is not None and key.is_admin
