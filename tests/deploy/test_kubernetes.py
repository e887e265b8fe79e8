"""The manifests under ``deploy/kubernetes``: of the right form, and true of the worker."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

import kubernetes_validate
import pytest

from tests.support.manifests import KUBERNETES, Started, in_kubernetes, kubernetes, pod_of
from worker.settings import Settings

OLDEST = "1.29"  # the first with native sidecars switched on
OF_OTHERS = {"PodMonitor"}  # kinds that Kubernetes itself does not know
MANIFESTS = kubernetes()
PODS = [(name, pod) for name, manifest in MANIFESTS if (pod := pod_of(manifest)) is not None]
OURS = list(in_kubernetes())
STARTING = [started for started in OURS if started.arguments[0] == "start"]


@pytest.mark.parametrize("release", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize(
    ("name", "manifest"),
    [(name, manifest) for name, manifest in MANIFESTS if manifest["kind"] not in OF_OTHERS],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
def test_manifest_is_of_the_schema(name: str, manifest: dict[str, Any], release: str) -> None:
    kubernetes_validate.validate(manifest, release, strict=True)


def test_schema_check_finds_a_misspelt_field() -> None:
    wrong = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringdata": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


@pytest.mark.parametrize("started", OURS, ids=str)
def test_worker_is_locked_in(started: Started) -> None:
    own, pod = started.spec["securityContext"], started.spec["pod"]
    context = {**pod["securityContext"], **own}
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["fsGroup"] == 10001, "the image's own user"
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert {"mountPath": "/tmp", "name": "tmp"} in started.spec["volumeMounts"]


@pytest.mark.parametrize("started", OURS, ids=str)
def test_worker_says_what_it_needs(started: Started) -> None:
    resources = started.spec["resources"]
    assert resources["requests"].keys() == {"cpu", "memory"}
    assert resources["limits"].keys() == {"memory"}, "a limit of the CPU only makes it late"


@pytest.mark.parametrize("started", OURS, ids=str)
def test_image_is_of_this_version(started: Started) -> None:
    assert started.spec["image"] == f"sidecar-worker:{version('sidecar-worker')}"


@pytest.mark.parametrize("started", OURS, ids=str)
def test_secrets_come_from_files_of_the_secret(started: Started) -> None:
    """Each is a key of the secret that the head of the file says how to make."""
    files = {value for name, value in started.environment.items() if name.endswith("_FILE")}
    assert files, "nothing secret stands in a variable"
    (mount,) = [m for m in started.spec["volumeMounts"] if m["mountPath"] == "/secrets"]
    assert mount["readOnly"] is True
    volume = next(v for v in started.spec["pod"]["volumes"] if v["name"] == mount["name"])
    secret = volume["secret"]["secretName"]
    needed = {file.removeprefix("/secrets/") for file in files}
    assert needed <= keys_of_secret(secret)
    mounted = {item["path"]: item["key"] for item in volume["secret"]["items"]}
    assert mounted == {key: key for key in needed}, "a container sees what it needs, no more"


def keys_of_secret(name: str) -> set[str]:
    heads = " ".join(path.read_text("utf-8").replace("\n#", "") for path in KUBERNETES)
    (made,) = re.findall(rf"create secret generic {name} (.*?) *kubectl apply", heads)
    return set(re.findall(r"--from-file=([a-z-]+)", made.replace("\\", "")))


@pytest.mark.parametrize("started", STARTING, ids=str)
def test_probes_ask_the_port_and_the_paths_that_there_are(started: Started) -> None:
    port = int(started.environment["WORKER_PROBE_PORT"])
    (named,) = started.spec["ports"]
    assert named["containerPort"] == port
    probes = {kind: spec for kind, spec in started.spec.items() if kind.endswith("Probe")}
    paths = {"startupProbe": "/startupz", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert {"startupProbe", "livenessProbe"} <= probes.keys()
    for kind, probe in probes.items():
        assert probe["httpGet"] == {"path": paths[kind], "port": named["name"]}
    live = probes["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 60, "a stall is no death yet"
    assert "WORKER_PROBE_HOST" not in started.environment
    assert Settings.model_fields["probe_host"].default == "0.0.0.0", "the kubelet reaches the pod"


def test_sidecar_starts_before_its_service_and_cannot_take_it_out_of_traffic() -> None:
    (sidecar,) = [pod["spec"] for name, pod in PODS if name == "sidecar.yaml"]
    (worker,) = sidecar["initContainers"]
    assert worker["restartPolicy"] == "Always"
    assert "readinessProbe" not in worker
    (service,) = sidecar["containers"]
    url = {env["name"]: env.get("value") for env in worker["env"]}["WORKER_DATA_API_URL"]
    assert url == f"http://localhost:{service['ports'][0]['containerPort']}"


def test_sidecar_has_a_ledger_that_outlives_its_pod() -> None:
    by_kind = {m["kind"]: m for name, m in MANIFESTS if name == "sidecar.yaml"}
    (state,) = [
        v
        for v in by_kind["Deployment"]["spec"]["template"]["spec"]["volumes"]
        if v["name"] == "state"
    ]
    claim = by_kind["PersistentVolumeClaim"]
    assert state["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    deployment = by_kind["Deployment"]["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}, "two pods would share one SQLite file"


def test_several_replicas_share_a_store_and_are_not_evicted_together() -> None:
    by_kind = {m["kind"]: m["spec"] for name, m in MANIFESTS if name == "worker.yaml"}
    deployment, labels = by_kind["Deployment"], by_kind["Deployment"]["template"]["metadata"]
    assert deployment["replicas"] > by_kind["PodDisruptionBudget"]["maxUnavailable"]
    for chosen in (
        deployment["selector"],
        by_kind["PodDisruptionBudget"]["selector"],
        by_kind["NetworkPolicy"]["podSelector"],
        deployment["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"],
    ):
        assert chosen["matchLabels"] == labels["labels"]
    migrate, worker = [started for started in OURS if started.where.startswith("worker.yaml")]
    assert migrate.arguments == ("migrate",)
    stores = {one.environment["WORKER_STORE_URL_FILE"] for one in (migrate, worker)}
    assert len(stores) == 1
    # Two that bear one name would be one worker to the ledger.
    (replica,) = [env for env in worker.spec["env"] if env["name"] == "WORKER_REPLICA"]
    assert replica["valueFrom"]["fieldRef"] == {"fieldPath": "metadata.name"}


MONITORS = {m["metadata"]["name"]: m["spec"] for _, m in MANIFESTS if m["kind"] == "PodMonitor"}


@pytest.mark.parametrize(
    ("name", "file"), [("worker", "worker.yaml"), ("orders-worker", "sidecar.yaml")]
)
def test_metrics_are_read_where_they_are_with_a_key_that_there_is(name: str, file: str) -> None:
    monitor = MONITORS[name]
    (deployment,) = [m["spec"] for n, m in MANIFESTS if n == file and "replicas" in m["spec"]]
    pod = deployment["template"]["spec"]
    assert monitor["selector"] == deployment["selector"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    containers = [*pod["containers"], *pod["initContainers"]]
    ports = {port["name"] for one in containers for port in one.get("ports", ())}
    assert endpoint["port"] in ports
    assert endpoint["path"] == "/metrics"
    token = endpoint["authorization"]["credentials"]
    assert token["key"] in keys_of_secret(token["name"])
    worker = next(started for started in STARTING if started.where.startswith(file))
    assert worker.environment["WORKER_OPS_READ_TOKEN_FILE"].endswith(token["key"])


@pytest.mark.parametrize("started", STARTING, ids=str)
def test_probe_port_is_open_to_prometheus_and_to_nobody_else(started: Started) -> None:
    file = started.where.partition(":")[0]
    manifests = {m["kind"]: m["spec"] for name, m in MANIFESTS if name == file}
    policy, template = manifests["NetworkPolicy"], manifests["Deployment"]["template"]
    assert policy["podSelector"]["matchLabels"] == template["metadata"]["labels"]
    (port,) = started.spec["ports"]
    rules = [
        rule
        for rule in policy["ingress"]
        if {one["port"] for one in rule["ports"]} & {port["name"], port["containerPort"]}
    ]
    ((peer,),) = [rule["from"] for rule in rules]
    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    assert peer["namespaceSelector"]["matchLabels"], "of one namespace"
    open_to_all = {
        one["port"] for rule in policy["ingress"] if "from" not in rule for one in rule["ports"]
    }
    services = template["spec"]["containers"]
    ours = [
        port["containerPort"]
        for one in services
        if one["name"] != "worker"
        for port in one["ports"]
    ]
    assert open_to_all == set(ours)


def test_cron_job_ends_before_its_deadline_and_tells_failures_apart() -> None:
    (job,) = [m["spec"] for _, m in MANIFESTS if m["kind"] == "CronJob"]
    (started,) = [one for one in OURS if one.where.startswith("cronjob")]
    limit_min = int(started.environment["WORKER_TASK_TIME_LIMIT"].removesuffix("m"))
    spec = job["jobTemplate"]["spec"]
    assert spec["activeDeadlineSeconds"] > limit_min * 60
    assert job["concurrencyPolicy"] == "Forbid"
    codes = {
        r["action"]: r["onExitCodes"]["values"]
        for r in reversed(spec["podFailurePolicy"]["rules"])
        if "onExitCodes" in r
    }
    assert codes == {"FailJob": [2, 78], "Ignore": [75]}
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "a failure policy asks for it"
