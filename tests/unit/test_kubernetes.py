"""`deploy/kubernetes` without a cluster: the API's own schema, and that it agrees with the code and with itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from jsonschema import Draft7Validator

from backfill.settings import Settings as BackfillSettings
from cdc_consumer.metrics import Snapshot
from cdc_consumer.monitor import Probe, serve
from cdc_consumer.settings import Settings
from tests.container_files import ROOT, load_both, loaded
from tests.unit.test_docs import PROGRAMS, resolve
from widetable.errors import ExitCode

FOLDER = ROOT / "deploy" / "kubernetes"
LABEL = {"app.kubernetes.io/name": "narrow-to-wide"}
NEEDS_A_PERSON = {ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.STOPPED}
SCALER_KEYS = {
    "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod", "advanced",
    "triggers",
}  # fmt: skip
TRIGGER_KEYS = {
    "bootstrapServers", "consumerGroup", "topic", "lagThreshold", "offsetResetPolicy", "allowIdleConsumers"
}  # fmt: skip
"""As KEDA's resource definition and its Kafka scaler spell them; looked up, for no schema of them is here."""
Object = dict[str, Any]


def objects() -> Iterator[Object]:
    """All objects of all files."""
    for path in sorted(FOLDER.glob("*.yaml")):
        yield from (each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each)


OBJECTS: dict[tuple[str, str], Object] = {
    (each["kind"], each["metadata"]["name"]): each for each in objects()
}
WORKLOADS = {name: each for (kind, name), each in OBJECTS.items() if kind in {"Deployment", "Job"}}
JOBS = {name: each for (kind, name), each in OBJECTS.items() if kind == "Job"}
SCHEMA = json.loads((ROOT / "tests/data/kubernetes-1.34.json").read_text(encoding="utf-8"))


def container(workload: Object) -> Object:
    """Its only container."""
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(workload: Object) -> dict[str, str]:
    """What its container is told: the config maps, then its own variables."""
    given: dict[str, str] = {}
    for source in container(workload)["envFrom"]:
        given |= OBJECTS["ConfigMap", source["configMapRef"]["name"]]["data"]
    return given | {each["name"]: each["value"] for each in container(workload)["env"]}


def problems(each: Object) -> list[str]:
    """What the API would refuse."""
    schema = {"$ref": f"#/definitions/{each['kind']}", "definitions": SCHEMA["definitions"]}
    return [f"{list(error.path)}: {error.message}" for error in Draft7Validator(schema).iter_errors(each)]


@pytest.mark.parametrize("key", [key for key in OBJECTS if key[0] != "ScaledObject"], ids="/".join)
def test_the_api_would_take_it(key: tuple[str, str]) -> None:
    """By the schema that Kubernetes publishes; unknown fields are errors."""
    assert not problems(OBJECTS[key])


def test_the_schema_notices_a_misspelt_field() -> None:
    """The test above can fail."""
    changed = json.loads(json.dumps(OBJECTS["Deployment", "cdc-consumer"]))
    container(changed)["livenessProb"] = container(changed).pop("livenessProbe")
    assert "livenessProb" in problems(changed)[0]


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_variable_that_is_set_is_a_setting(name: str, tmp_path: Path) -> None:
    """Both programs load what the config map and the container say."""
    load_both(environment(WORKLOADS[name]), tmp_path)


@pytest.mark.parametrize("name", WORKLOADS)
def test_secrets_are_files_that_are_mounted(name: str) -> None:
    """Each file that is named is a key of the secret and an item of the volume; none is mounted without need."""
    pod = WORKLOADS[name]["spec"]["template"]["spec"]
    (mount,) = (each for each in container(WORKLOADS[name])["volumeMounts"] if each["name"] == "secrets")
    (volume,) = (each["secret"] for each in pod["volumes"] if each["name"] == "secrets")
    secret = OBJECTS["Secret", volume["secretName"]]["stringData"]
    files = {f"{mount['mountPath']}/{item['path']}" for item in volume["items"]}
    assert {item["key"] for item in volume["items"]} <= set(secret)
    named = {text for name, text in environment(WORKLOADS[name]).items() if name.endswith("_FILE")}
    assert named == files
    assert all("CHANGE-ME" in text for text in secret.values())


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_pods_may_do_as_little_as_can_be(name: str) -> None:
    """No root, no capability, nothing to write to but /tmp, no token; memory has a limit."""
    pod, main = WORKLOADS[name]["spec"]["template"]["spec"], container(WORKLOADS[name])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert pod["automountServiceAccountToken"] is False
    assert ("ServiceAccount", pod["serviceAccountName"]) in OBJECTS
    assert main["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert main["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_commands_are_commands(name: str) -> None:
    """Arguments, so that the image's entry point stays; the real command lines take them."""
    assert "command" not in container(WORKLOADS[name])
    arguments = container(WORKLOADS[name])["args"]
    lines = [arguments]
    if arguments[0] == "sh":
        lines = [part.removeprefix("exec ").split() for part in arguments[2].split(" && ")]
    for program, *rest in lines:
        resolve(PROGRAMS[program], program, rest)


def test_the_probes_ask_what_the_program_serves(tmp_path: Path) -> None:
    """Path and port; a member that waits for its partitions is alive and not ready."""
    main = container(WORKLOADS["cdc-consumer"])
    settings = loaded(environment(WORKLOADS["cdc-consumer"]), tmp_path, Settings)
    (port,) = main["ports"]
    assert port == {"name": "http", "containerPort": settings.consumer.http_port}
    assert settings.consumer.http_host == "0.0.0.0"  # noqa: S104 - the pod's
    asked = {probe: main[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert {get["port"] for get in asked.values()} == {"http"}
    server = serve("127.0.0.1", 0, Probe(Snapshot, lambda: 0.0, lambda: False))
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        codes = {
            probe: httpx.get(base + get["path"], trust_env=False).status_code for probe, get in asked.items()
        }
    finally:
        server.shutdown()
        server.server_close()
    assert codes == {"startup": 200, "liveness": 200, "readiness": 503}


def test_the_grace_periods_are_longer_than_the_programs_own(tmp_path: Path) -> None:
    """Or the kubelet kills what would have ended by itself."""
    consumer = loaded(environment(WORKLOADS["cdc-consumer"]), tmp_path, Settings).consumer.shutdown_s
    history = loaded(environment(WORKLOADS["backfill"]), tmp_path, BackfillSettings).backfill.shutdown_s
    for name, own_s in (("cdc-consumer", consumer), ("backfill", history)):
        assert WORKLOADS[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= own_s + 10


@pytest.mark.parametrize("name", JOBS)
def test_no_job_is_repeated_where_a_person_must_act(name: str) -> None:
    """Codes 2, 3 and 6 fail it at once; an outage (4) never does."""
    assert JOBS[name]["spec"]["template"]["spec"]["restartPolicy"] == "Never", "or the policy is refused"
    rules = JOBS[name]["spec"]["podFailurePolicy"]["rules"]
    (codes,) = (rule["onExitCodes"] for rule in rules if rule["action"] == "FailJob")
    assert codes["containerName"] == container(JOBS[name])["name"]
    assert set(codes["values"]) >= NEEDS_A_PERSON
    assert ExitCode.UNREACHABLE not in codes["values"]


def test_selectors_and_names_meet() -> None:
    """Deployment, budget, service and scaler speak of the same pods."""
    deployment = OBJECTS["Deployment", "cdc-consumer"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= LABEL.items()
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["PodDisruptionBudget", "cdc-consumer"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service", "cdc-consumer"]["spec"]["selector"] == labels
    target = OBJECTS["ScaledObject", "cdc-consumer"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in OBJECTS


def test_the_scaler_looks_at_the_pipelines_group_and_topic(tmp_path: Path) -> None:
    """By the names that the settings make; never to zero, never beyond the partitions."""
    settings = loaded(environment(WORKLOADS["cdc-consumer"]), tmp_path, Settings)
    scaler = OBJECTS["ScaledObject", "cdc-consumer"]["spec"]
    (trigger,) = scaler["triggers"]
    assert scaler.keys() == SCALER_KEYS
    assert trigger["metadata"].keys() == TRIGGER_KEYS
    assert trigger["type"] == "kafka"
    assert trigger["metadata"]["consumerGroup"] == settings.group_id
    assert trigger["metadata"]["topic"] == settings.topic_name
    assert trigger["metadata"]["bootstrapServers"] == settings.kafka.bootstrap_servers
    assert int(trigger["metadata"]["lagThreshold"]) >= settings.consumer.batch_events
    assert 1 <= scaler["minReplicaCount"] <= scaler["maxReplicaCount"] <= settings.topic.partitions
