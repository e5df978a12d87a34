"""Settings of `cdc-consumer`: parsed once at the command line's edge, frozen, passed down.

Names that tie the parts together (slot, publication, connector, consumer group, topic prefix) default to the
pipeline's name, so that one setting tells two pipelines on the same servers apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from psycopg import conninfo
from pydantic import Field, SecretStr, StringConstraints, field_validator

from widetable import environment, logs
from widetable.environment import EnvironmentSettings
from widetable.errors import ConfigurationError
from widetable.logs import LogSettings
from widetable.settings import PipelineSettings, Section, SourceSettings, TargetSettings

SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/]+", strip_whitespace=True)]
TopicPart = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")]

MS_PER_DAY: Final = 86_400_000
NOT_IN_TOPIC_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")
"""Debezium writes each of these as an underscore in a topic's name."""


SETTLED_BY_US: Final = frozenset(
    {
        *("auto.offset.reset", "enable.auto.commit", "enable.auto.offset.store", "auto.commit.enable"),
        *("enable.partition.eof", "isolation.level"),
    }
)
"""Properties of librdkafka that no loss may depend on a copied line of."""


class KafkaSettings(Section):
    """The Kafka cluster, and this program's place in it."""

    bootstrap_servers: str = Field("localhost:9092", description="Brokers, host:port, separated by commas.")
    group_id: TopicPart | None = Field(None, description="Consumer group; default: the pipeline's name.")
    group_protocol: Literal["classic", "consumer"] = Field(
        "classic", description="Rebalance protocol: classic, or consumer (KIP-848, brokers from 4.0)."
    )
    request_timeout_s: float = Field(15.0, gt=0, description="Seconds to wait for an answer of the cluster.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None = Field(
        None, description="How the brokers are spoken to; unset: PLAINTEXT."
    )
    sasl_mechanism: str | None = Field(None, description="How to log in, such as SCRAM-SHA-512.")
    sasl_username: str | None = Field(None, description="User at the brokers.")
    sasl_password: SecretStr | None = Field(None, description="Password of that user.")
    ssl_ca_location: str | None = Field(
        None, description="File with the brokers' certificate authority (PEM); unset: the system's."
    )
    extra: dict[str, SecretStr] = Field(
        default_factory=dict,
        description="librdkafka properties as JSON, or one each: CDC_KAFKA__EXTRA__SASL_PASSWORD_FILE=…",
    )

    @field_validator("extra")
    @classmethod
    def _with_dots(cls, extra: dict[str, SecretStr]) -> dict[str, SecretStr]:
        """Environment variables can't hold dots: SECURITY_PROTOCOL is librdkafka's security.protocol."""
        return {name.replace("_", "."): text for name, text in extra.items()}

    @field_validator("extra")
    @classmethod
    def _leaves_the_place_to_the_ledger(cls, extra: dict[str, SecretStr]) -> dict[str, SecretStr]:
        """With another reset, say, a client would go on behind events that are gone, and nobody would hear."""
        if settled := sorted(extra.keys() & SETTLED_BY_US):
            raise ValueError(
                f"{', '.join(settled)} can't be set: where to read, and what, is for the offset ledger to say."
                " Leave it out"
            )
        return extra

    def client(self, **more: Any) -> dict[str, Any]:
        """Configuration of a librdkafka client; a user's `extra` wins over our defaults, not over `more`."""
        password = self.sasl_password.get_secret_value() if self.sasl_password else None
        named = {
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.sasl_username,
            "sasl.password": password,
            "ssl.ca.location": self.ssl_ca_location,
        }
        own = {name: value for name, value in named.items() if value is not None}
        extra = {name: text.get_secret_value() for name, text in self.extra.items()}
        return {"bootstrap.servers": self.bootstrap_servers, **own, **extra, **more}


class RegistrySettings(Section):
    """The schema registry, by its Confluent-compatible interface (Apicurio has one, too)."""

    url: Url = Field(
        "http://localhost:8081/apis/ccompat/v7",
        description="Base address; the schema with id 1 is at …/schemas/ids/1.",
    )
    auth_user: str | None = Field(None, description="User of the registry, if it asks for one.")
    auth_password: SecretStr | None = Field(None, description="Password of that user.")
    ca_location: str | None = Field(
        None, description="File with the registry's certificate authority (PEM); unset: certifi's list."
    )
    timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for an answer.")


class ConnectSettings(Section):
    """Kafka Connect, and how its connector reaches the source database (its view may differ from ours)."""

    url: Url = Field("http://localhost:8083", description="REST interface of Kafka Connect.")
    auth_user: str | None = Field(None, description="User of the REST interface, if it asks for one.")
    auth_password: SecretStr | None = Field(None, description="Password of the REST interface.")
    ca_location: str | None = Field(
        None, description="File with Connect's certificate authority (PEM); unset: certifi's list."
    )
    timeout_s: float = Field(30.0, gt=0, description="Seconds to wait for an answer of the REST interface.")
    connector: TopicPart | None = Field(None, description="Connector's name; default: the pipeline's name.")
    slot: SlotName | None = Field(None, description="Replication slot; default: the pipeline's name.")
    publication: SlotName | None = Field(None, description="Publication; default: the pipeline's name.")
    source_host: str | None = Field(None, description="Source host as Connect sees it; default: the DSN's.")
    source_port: int | None = Field(None, description="Source port as Connect sees it; default: the DSN's.")
    source_dbname: str | None = Field(None, description="Source database; default: the DSN's.")
    source_user: str | None = Field(None, description="Role of the connector; default: the DSN's.")
    password_reference: str = Field(
        "${file:/opt/kafka/secrets/source.properties:password}",
        description="Where Connect's config provider finds that role's password; never the password itself.",
    )
    heartbeat_ms: int = Field(
        10_000,
        ge=100,
        description="Interval of heartbeats, milliseconds; also how soon an idle slot moves on.",
    )
    extra: dict[str, str] = Field(
        default_factory=dict, description="More connector settings as JSON; they win over the file's."
    )

    @field_validator("password_reference")
    @classmethod
    def _is_reference(cls, text: str) -> str:
        if not re.fullmatch(r"\$\{[^{}]+\}", text):
            raise ValueError(
                "must be a reference that Connect resolves, like ${file:/path:key} or ${env:NAME}"
            )
        return text


class TopicSettings(Section):
    """The change topic; its shape is settled once, when `init` creates it."""

    prefix: TopicPart | None = Field(None, description="Prefix of topic names; default: the pipeline's name.")
    partitions: int = Field(12, ge=1, le=10_000, description="Partitions; ships are spread over them.")
    replication_factor: int = Field(1, ge=1, description="Copies of each partition; 3 in production.")
    retention_days: float = Field(7.0, gt=0, description="Days that Kafka keeps events.")
    format: Literal["avro", "json"] = Field(
        "avro",
        description="What the connector's converters write: avro (fast), or json, with schemas or without.",
    )
    envelope: Literal["debezium", "flat"] = Field(
        "debezium", description="debezium: whole events; flat: rows that ExtractNewRecordState has flattened."
    )

    @property
    def retention_ms(self) -> int:
        """The retention as Kafka takes it."""
        return round(self.retention_days * MS_PER_DAY)


class ConsumerSettings(Section):
    """How `cdc-consumer run` batches, holds and stops."""

    processes: int = Field(1, ge=1, le=64, description="Consumer processes; each is a member of the group.")
    hold_ms: int = Field(200, ge=0, description="Milliseconds without a cell after which a row is written.")
    max_hold_ms: int = Field(5_000, ge=1, description="Milliseconds that a row is held at most.")
    poll_events: int = Field(5_000, ge=1, le=1_000_000, description="Events asked for in one consume() call.")
    batch_events: int = Field(50_000, ge=1, description="Events that make a full batch.")
    max_held_events: int = Field(500_000, ge=1, description="Events held for incomplete rows at most.")
    max_held_bytes: int = Field(256 << 20, ge=1 << 20, description="Bytes of events held at most.")
    watch_s: float = Field(5.0, gt=0, description="Seconds between two looks at slot, connector and topic.")
    shutdown_s: float = Field(20.0, gt=0, description="Seconds to finish after SIGTERM.")
    http_host: str = Field("127.0.0.1", description="Address for metrics and health.")
    http_port: int = Field(9180, ge=0, le=65_535, description="Port for metrics and health; 0 is off.")
    status_page: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Status page at `/` of that port; auto: only where the address is loopback, for this machine.",
    )
    page_exports: int = Field(
        0,
        ge=0,
        le=16,
        description="Exports of wide rows from that page at a time; 0 is none. Whoever reaches the page, through a"
        " proxy on this machine, too, takes rows without a login to the database.",
    )
    dead_in_a_row: int = Field(100, ge=1, description="Stop after so many dead records in a row.")
    dead_share: float = Field(0.01, gt=0, le=1, description="Stop when this share of recent records is dead.")
    dead_window: int = Field(100_000, ge=100, description="How many recent records that share is taken of.")


class Settings(EnvironmentSettings):
    """Everything `cdc-consumer` can be told."""

    pipeline: PipelineSettings = PipelineSettings()
    source: SourceSettings
    target: TargetSettings
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    connect: ConnectSettings = ConnectSettings()
    topic: TopicSettings = TopicSettings()
    consumer: ConsumerSettings = ConsumerSettings()
    log: LogSettings = LogSettings()

    @property
    def group_id(self) -> str:
        """The consumer group."""
        return self.kafka.group_id or self.pipeline.name

    @property
    def connector(self) -> str:
        """The connector's name in Kafka Connect."""
        return self.connect.connector or self.pipeline.name

    @property
    def slot(self) -> str:
        """The replication slot."""
        return self.connect.slot or self.pipeline.name

    @property
    def publication(self) -> str:
        """The publication."""
        return self.connect.publication or self.pipeline.name

    @property
    def topic_prefix(self) -> str:
        """Debezium's logical name of the source: topics and stored offsets carry it."""
        return self.topic.prefix or self.pipeline.name

    @property
    def topic_name(self) -> str:
        """The topic of the narrow table's changes."""
        return self._topic_of(self.source.table)

    @property
    def heartbeat_topic(self) -> str:
        """The topic of the heartbeat table's changes."""
        return self._topic_of(self.source.heartbeat_table)

    def _topic_of(self, table: str) -> str:
        return NOT_IN_TOPIC_NAMES.sub("_", f"{self.topic_prefix}.{table}")

    def source_as_connect_sees_it(self) -> dict[str, str]:
        """`host`, `port`, `dbname`, `user` for the connector: as set, else as in the source's DSN."""
        dsn = conninfo.conninfo_to_dict(self.source.dsn.get_secret_value())
        user = self.connect.source_user or dsn.get("user")
        if not user:
            raise ConfigurationError("The connector needs a role: set CDC_CONNECT__SOURCE_USER.")
        return {
            "host": self.connect.source_host or str(dsn.get("host") or "localhost"),
            "port": str(self.connect.source_port or dsn.get("port") or 5432),
            "dbname": self.connect.source_dbname or str(dsn.get("dbname") or user),
            "user": str(user),
        }


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Mapping[str, object]) -> Settings:
    """The settings from the environment; `overrides` are sections, e.g. `consumer={"hold_ms": 100}`.

    Raises:
        ConfigurationError: with every problem on a line of its own.
    """
    return environment.load(Settings, environ, **overrides)


def command_settings(**overrides: Mapping[str, object]) -> Settings:
    """What every command begins with: the settings, and this process's logs as they say.

    Raises:
        ConfigurationError: a setting is wrong, or the log file can't be written.
    """
    loaded = load_settings(None, **overrides)
    logs.configure(loaded.log)
    return loaded
