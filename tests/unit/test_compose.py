"""`docker-compose.yml` without an engine: its schema, and that it agrees with the code and with itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from psycopg.conninfo import conninfo_to_dict

from backfill.settings import Settings as BackfillSettings
from cdc_consumer.connector import render
from cdc_consumer.settings import Settings
from tests.container_files import ROOT, compose, example_environment, load_both, loaded, services
from widetable.environment import load
from widetable.errors import ConfigurationError, ExitCode

OURS = ("init", "cdc-consumer", "backfill", "fleet-history", "fleet")
SERVERS = ("postgres", "kafka", "registry", "connect", "prometheus", "grafana")
NEEDS_A_PERSON = {ExitCode.USAGE, ExitCode.CONFIGURATION, ExitCode.STOPPED}
CONVERTER = {
    "url": "http://registry:8080/apis/registry/v3",
    "auto-register": "true",
    "use-id": "contentId",
    "id-handler": "io.apicurio.registry.serde.Default4ByteIdHandler",
    "headers.enabled": "false",
}


def seconds(text: str) -> float:
    """A duration of Compose, such as 1m30s."""
    units = {"h": 3600, "m": 60, "s": 1}
    return float(sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", text)))


def worker_properties() -> dict[str, str]:
    """What the connect image makes of its environment: CONNECT_A_B-C is the property a.b-c."""
    environment = services()["connect"]["environment"]
    return {
        name.removeprefix("CONNECT_").lower().replace("_", "."): text
        for name, text in environment.items()
        if name.startswith("CONNECT_")
    }


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What deploy/compose/secrets.sh makes."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([str(ROOT / "deploy/compose/secrets.sh"), str(folder)], check=True)  # noqa: S603 - ours
    return folder


# -- the file itself ------------------------------------------------------------------------------------------


def test_the_file_is_a_compose_file() -> None:
    """By the specification's own schema, with the variables of .env.example put in."""
    assert not schema_problems(compose())


def test_the_schema_notices_a_misspelt_key() -> None:
    """The test above can fail."""
    changed = compose()
    changed["services"]["cdc-consumer"]["stop_grace_perod"] = "40s"
    (problem,) = schema_problems(changed)
    assert "stop_grace_perod" in problem


def schema_problems(file: dict[str, Any]) -> list[str]:
    """What the specification's schema has against a file."""
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text(encoding="utf-8"))
    return [f"{list(error.path)}: {error.message}" for error in Draft7Validator(schema).iter_errors(file)]


def test_what_is_referred_to_is_there() -> None:
    """Services, volumes, secrets and files by name."""
    whole = compose()
    for name, service in whole["services"].items():
        assert set(service.get("depends_on", {})) <= set(whole["services"]), name
        assert set(service.get("secrets", [])) <= set(whole["secrets"]), name
        for mount in service.get("volumes", []):
            place = mount.split(":", maxsplit=1)[0]
            if place.startswith("./"):
                assert (ROOT / place).exists(), mount
            else:
                assert place in whole["volumes"], mount
    assert {secret for service in whole["services"].values() for secret in service.get("secrets", [])} == set(
        whole["secrets"]
    )


def test_prometheus_and_grafana_find_each_other_and_the_consumer() -> None:
    """Host and port of a service, and the folder where the dashboards are mounted."""
    scraped = (ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
    assert f"cdc-consumer:{services()['cdc-consumer']['ports'][0].split(':')[2]}" in scraped
    assert "rules/*.yml" in scraped
    provisioning = ROOT / "deploy/grafana/provisioning"
    said = "\n".join(path.read_text(encoding="utf-8") for path in provisioning.rglob("*.yml"))
    assert f"http://prometheus:{services()['prometheus']['ports'][0].split(':')[2]}" in said
    dashboards = next(m for m in services()["grafana"]["volumes"] if "dashboards" in m).split(":")[1]
    assert f"path: {dashboards}" in said


def test_whoever_is_waited_for_can_be_waited_for() -> None:
    """Healthy needs a health check, completed needs something that ends by itself."""
    for name, service in services().items():
        for other, how in service.get("depends_on", {}).items():
            awaited = services()[other]
            if how["condition"] == "service_healthy":
                assert awaited["healthcheck"]["test"], f"{name} waits for {other}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert awaited["restart"] == "no", f"{name} waits for {other}"


def test_a_service_without_a_profile_never_needs_one_with() -> None:
    """Compose refuses to start otherwise, unless it is said that it is not required."""
    for name, service in services().items():
        for other, how in service.get("depends_on", {}).items():
            theirs = services()[other].get("profiles")
            if theirs and theirs != service.get("profiles"):
                assert how.get("required") is False, f"{name} needs {other}"


def test_images_are_pinned_in_one_place() -> None:
    """Each is a variable of .env.example, with a version; without that file nothing starts."""
    environment = example_environment()
    images = {name: text for name, text in environment.items() if name.endswith("_IMAGE")}
    assert all(re.search(r":v?\d+\.\d+", image) for image in images.values()), images
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+_IMAGE):\?see .env.example\}", text)) == set(images)
    with pytest.raises(KeyError, match="IMAGE"):
        compose({})
    assert {services()[name]["image"] for name in SERVERS} == set(images.values()) - {
        environment["PYTHON_IMAGE"]
    }


def test_every_variable_of_the_example_is_used() -> None:
    """No knob that turns nothing; and the defaults beside the variables are the example's."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    found = dict(re.findall(r"\$\{(\w+):[-?]([^}]*)\}", text))
    example = example_environment()
    assert set(found) == set(example)
    assert all(default in {"see .env.example", example[name]} for name, default in found.items())


def test_nothing_is_open_to_the_network() -> None:
    """Ports are published on the loopback interface, and no two services share one."""
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports) == 7


def test_every_service_has_its_limits() -> None:
    """Memory and processors, and logs that don't fill the disk."""
    for name, service in services().items():
        limits = service["deploy"]["resources"]["limits"]
        assert limits["memory"], name
        assert limits["cpus"], name
        assert service["logging"]["options"]["max-size"], name
        assert "no-new-privileges:true" in service["security_opt"], name


# -- our own services -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["init", "cdc-consumer", "backfill"])
def test_every_variable_that_is_set_is_a_setting(name: str, tmp_path: Path) -> None:
    """The container's environment is read by the programs' own models: a misspelt name would stop them."""
    load_both(services()[name]["environment"], tmp_path)


def test_a_misspelt_variable_would_be_noticed(tmp_path: Path) -> None:
    """The test above can fail."""
    environment = {**services()["cdc-consumer"]["environment"], "CDC_CONSUMER__PROCESES": "1"}
    with pytest.raises(ConfigurationError, match="CDC_CONSUMER__PROCESES"):
        load_both(environment, tmp_path)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_write_nothing(name: str) -> None:
    """Read-only root, /tmp in memory, no capability."""
    service = services()[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - the container's
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", OURS)
def test_secrets_are_files(name: str) -> None:
    """Nothing secret stands in an environment, and each file that is named is mounted."""
    service = services()[name]
    named = {text for variable, text in service["environment"].items() if variable.endswith("_FILE")}
    assert named == {f"/run/secrets/{secret}" for secret in service["secrets"]}
    assert not [text for text in service["environment"].values() if "password=" in str(text).lower()]
    assert "CDC_TARGET__DDL_DSN_FILE" not in services()["backfill"]["environment"], "it never needs it"


def test_one_environment_makes_one_pipeline(tmp_path: Path) -> None:
    """init, run and backfill agree on everything that both are told."""
    said = [services()[name]["environment"] for name in ("init", "cdc-consumer", "backfill")]
    for one in said:
        for other in said:
            shared = (one.keys() & other.keys()) - {"CDC_SOURCE__DSN_FILE"}
            assert {name: one[name] for name in shared} == {name: other[name] for name in shared}
    settings = loaded(said[1], tmp_path, Settings)
    assert settings.consumer.http_port == 9180


def test_the_addresses_are_those_of_the_services(tmp_path: Path) -> None:
    """Host is a service, port is what that service listens on."""
    settings = loaded(services()["cdc-consumer"]["environment"], tmp_path, Settings)
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert "PLAINTEXT://kafka:9092" in services()["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert settings.registry.url == "http://registry:8080/apis/ccompat/v7"
    assert settings.connect.url == "http://connect:8083"
    inner = {
        name: service["ports"][0].split(":")[2] for name, service in services().items() if "ports" in service
    }
    assert inner["registry"] == "8080"
    assert inner["connect"] == worker_properties()["listeners"].rpartition(":")[2] == "8083"
    assert inner["cdc-consumer"] == str(settings.consumer.http_port)


def test_the_grace_period_is_longer_than_the_programs_own(tmp_path: Path) -> None:
    """Or Docker kills what would have ended by itself; the ledger forgives it, but it costs a rebalance."""
    consumer, backfill = services()["cdc-consumer"], services()["backfill"]
    settings = loaded(consumer["environment"], tmp_path, Settings)
    assert seconds(consumer["stop_grace_period"]) >= settings.consumer.shutdown_s + 10
    history = loaded(backfill["environment"], tmp_path, BackfillSettings)
    assert seconds(backfill["stop_grace_period"]) >= history.backfill.shutdown_s + 10


def test_no_restart_where_a_person_must_act() -> None:
    """on-failure starts again after all codes but 0; tini makes 0 of those that waiting does not mend."""
    entrypoint = services()["cdc-consumer"]["entrypoint"]
    remapped = {int(code) for flag, code in pairwise(entrypoint) if flag == "-e"}
    assert remapped == NEEDS_A_PERSON
    assert services()["cdc-consumer"]["restart"] == "on-failure"
    assert {services()[name]["restart"] for name in ("init", "backfill")} == {"no"}


def test_only_the_consumer_is_asked_for_its_health() -> None:
    """The image's check looks for its HTTP; others would be unhealthy for ever."""
    off = {name for name in OURS if services()[name].get("healthcheck") == {"disable": True}}
    assert off == set(OURS) - {"cdc-consumer"}


def test_the_database_is_ready_for_replication() -> None:
    """As `cdc-consumer check` wants it."""
    arguments = dict(part.removeprefix("-c").split("=") for part in services()["postgres"]["command"][1:])
    assert arguments["wal_level"] == "logical"
    assert arguments["max_slot_wal_keep_size"] == example_environment()["MAX_SLOT_WAL_KEEP_SIZE"]


# -- Kafka Connect --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["key", "value"])
def test_the_converter_writes_confluents_frame(part: str) -> None:
    """Byte 0, a 4-byte content id: what the decoder reads. Nothing else is set, such as find-latest."""
    prefix = f"{part}.converter.apicurio.registry."
    found = {
        name.removeprefix(prefix): text
        for name, text in worker_properties().items()
        if name.startswith(prefix)
    }
    assert found == CONVERTER
    environment = services()["connect"]["environment"]
    assert environment[f"{part.upper()}_CONVERTER"] == "io.apicurio.registry.utils.converter.AvroConverter"
    assert environment["ENABLE_APICURIO_CONVERTERS"] == "true"
    assert "APICURIO_REGISTRY" not in environment


def test_schemas_outlive_the_registry() -> None:
    """Events refer to ids for as long as Kafka keeps them; a registry in memory would number anew."""
    assert services()["registry"]["environment"]["APICURIO_STORAGE_KIND"] == "kafkasql"


def test_the_connector_finds_its_password(secrets: Path) -> None:
    """`init` registers connectors/debezium.json with a reference that the worker's provider and mount resolve."""
    environment = services()["init"]["environment"]
    given = {name: str(text) for name, text in environment.items() if not name.endswith("_FILE")}
    given |= {
        name.removesuffix("_FILE"): (secrets / Path(text).name).read_text(encoding="utf-8").strip()
        for name, text in environment.items()
        if name.endswith("_FILE")
    }
    config = render(load(Settings, given), "x").config
    assert config["database.hostname"] == "postgres"
    assert config["database.user"] == "narrow_debezium"
    assert config["database.password"] == "${file:/run/secrets/connect_source.properties:password}"
    worker = worker_properties()
    assert worker["config.providers"] == "file"
    assert worker["config.providers.file.class"].endswith(".FileConfigProvider")
    assert worker["connector.client.config.override.policy"] == "All", "producer.override.* in the connector"
    assert services()["connect"]["secrets"] == ["connect_source.properties"]
    password = conninfo_to_dict(given["CDC_SOURCE__DSN"])["password"]
    assert (secrets / "connect_source.properties").read_text(encoding="utf-8") == f"password={password}\n"


# -- secrets ----------------------------------------------------------------------------------------------------


def test_the_script_makes_every_secret(secrets: Path) -> None:
    """Each file that Compose mounts, the folder closed to others, the files open to the containers' users."""
    wanted = {Path(secret["file"]).name for secret in compose()["secrets"].values()}
    assert {path.name for path in secrets.iterdir()} == wanted
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o644}


def test_the_scripts_connection_strings_hold_their_roles_passwords(secrets: Path) -> None:
    """Roles are those of deploy/roles.sql, hosts are services."""
    said: dict[str, dict[str, Any]] = {
        name: conninfo_to_dict((secrets / name).read_text(encoding="utf-8").strip())
        for name in ("collector_dsn", "source_dsn", "history_dsn", "target_dsn", "target_ddl_dsn")
    }
    assert {(dsn["host"], str(dsn["port"])) for dsn in said.values()} == {("postgres", "5432")}
    assert {name: (dsn["user"], dsn["dbname"]) for name, dsn in said.items()} == {
        "collector_dsn": ("collector", "source"),
        "source_dsn": ("narrow_debezium", "source"),
        "history_dsn": ("narrow_history", "source"),
        "target_dsn": ("wide_writer", "target"),
        "target_ddl_dsn": ("wide_ddl", "target"),
    }
    roles = (ROOT / "deploy/roles.sql").read_text(encoding="utf-8")
    assert all(dsn["user"] in roles for name, dsn in said.items() if name != "collector_dsn")
    passwords = {dsn["password"] for dsn in said.values()}
    assert len(passwords) == 5
    assert all(len(str(password)) == 32 for password in passwords)


def test_the_script_keeps_what_is_there(secrets: Path) -> None:
    """A second run must not lock a database's users out."""
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    subprocess.run([str(ROOT / "deploy/compose/secrets.sh"), str(secrets)], check=True)  # noqa: S603 - ours
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before


def test_git_and_the_image_leave_the_secrets_out() -> None:
    """Neither a commit nor a layer may hold them."""
    assert {"/secrets/", "/.env"} <= set((ROOT / ".gitignore").read_text(encoding="utf-8").splitlines())
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    assert not [rule for rule in rules if "secrets" in rule or ".env" in rule]
    for script in (ROOT / "deploy/compose").glob("*.sh"):
        assert os.access(script, os.X_OK), script
