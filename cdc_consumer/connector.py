"""The connector as Kafka Connect gets it: `connectors/debezium.json` with this deployment's values.

In: the file and the settings. Out: a connector's name and configuration. Guarantee: a placeholder that is
not known, or a value that the file does not use, is an error; and no password passes through here, only the
reference that Connect's own config provider resolves.

A placeholder is `${UPPER_CASE}`; Connect's references (`${file:…}`, `${env:…}`) hold a colon and are left
alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from cdc_consumer.settings import Settings
from widetable.errors import ConfigurationError
from widetable.settled import beat_query

PLACEHOLDER: Final = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")
CONNECTOR_CLASS: Final = "io.debezium.connector.postgresql.PostgresConnector"


@dataclass(frozen=True, slots=True)
class Connector:
    """A connector's name and its configuration, ready for Connect's REST interface."""

    name: str
    config: dict[str, str]


def snapshot_name(name: str) -> str:
    """The name of the connector that `cdc-consumer snapshot` makes beside the stream's."""
    return f"{name}_snapshot"


def connector_file() -> str:
    """The text of `connectors/debezium.json` as shipped."""
    return (files("cdc_consumer") / "connectors" / "debezium.json").read_text(encoding="utf-8")


def render(settings: Settings, unavailable_value: str) -> Connector:
    """The connector for these settings.

    Args:
        settings: the deployment.
        unavailable_value: what stands for an unchanged TOASTed value; random, one per epoch.
    """
    document = substitute(connector_file(), values(settings, unavailable_value))
    config = {**document["config"], **settings.connect.extra}
    return Connector(document["name"], config)


def values(settings: Settings, unavailable_value: str) -> dict[str, str]:
    """What each placeholder of the file stands for."""
    source = settings.source_as_connect_sees_it()
    return {
        "CONNECTOR_NAME": settings.connector,
        "SOURCE_HOST": source["host"],
        "SOURCE_PORT": source["port"],
        "SOURCE_DBNAME": source["dbname"],
        "SOURCE_USER": source["user"],
        "SOURCE_PASSWORD": settings.connect.password_reference,
        "PUBLICATION": settings.publication,
        "SLOT": settings.slot,
        "TOPIC_PREFIX": settings.topic_prefix,
        # Debezium takes table names as regular expressions.
        "NARROW_TABLE": re.escape(settings.source.table),
        "HEARTBEAT_TABLE": re.escape(settings.source.heartbeat_table),
        "HEARTBEAT_MS": str(settings.connect.heartbeat_ms),
        "HEARTBEAT_QUERY": beat_query(settings.source.heartbeat_table),
        "UNAVAILABLE_VALUE": unavailable_value,
        "TOPIC_PARTITIONS": str(settings.topic.partitions),
        "REPLICATION_FACTOR": str(settings.topic.replication_factor),
        "RETENTION_MS": str(settings.topic.retention_ms),
    }


def substitute(text: str, given: dict[str, str]) -> dict[str, Any]:
    """The JSON document `text` with every placeholder replaced, inside its strings and only once.

    Raises:
        ConfigurationError: not JSON, a placeholder without a value, or a value without a placeholder.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"connectors/debezium.json is not JSON: {error}. Restore it.") from error
    wanted = set(PLACEHOLDER.findall(text))
    if unknown := sorted(wanted - given.keys()):
        raise ConfigurationError(f"connectors/debezium.json has unknown placeholders: {', '.join(unknown)}.")
    if unused := sorted(given.keys() - wanted):
        raise ConfigurationError(
            f"connectors/debezium.json lacks the placeholders {', '.join(unused)}: without them the connector"
            " would not follow the settings. Put them back."
        )
    return _replace(document, given)  # type: ignore[no-any-return]  # the file's top level is an object


def _replace(node: Any, given: dict[str, str]) -> Any:
    match node:
        case dict():
            return {name: _replace(inner, given) for name, inner in node.items()}
        case str():
            return PLACEHOLDER.sub(lambda found: given[found[1]], node)
        case _:
            return node
