"""Settings that both programs share: where the source and target are, and what the pipeline is called.

Pydantic stands at the rim only: a settings object is parsed once, at the command line's edge, from the
environment (``CDC_`` prefix, ``__`` between levels) and flags, and passed down.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=63)]
QualifiedName = Annotated[str, StringConstraints(pattern=r"^[^.]+\.[^.]+$")]


class Section(BaseModel):
    """A group of settings; an unknown name in it is an error, not a silent nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(Section):
    """The database that holds the narrow table."""

    dsn: SecretStr = Field(description="Connection string of the source database (libpq URI or keywords).")
    table: QualifiedName = Field("tenant.tbl_data_timeseries", description="The narrow table, schema.table.")
    heartbeat_table: QualifiedName = Field(
        "cdc.heartbeat",
        description="Table that Debezium touches so that the slot moves on while ships are silent.",
    )
    connect_timeout_s: int = Field(10, ge=1, description="Seconds to wait for a connection.")


class TargetSettings(Section):
    """The database that holds the wide tables and the control schema."""

    dsn: SecretStr = Field(description="Connection string of the target database; may equal the source's.")
    ddl_dsn: SecretStr | None = Field(
        None,
        description="Connection string of the role that owns the tables, for `schema apply`, migrations and"
        " newcomers; default: the DSN above.",
    )
    wide_schema: Identifier = Field("tenant", description="Schema of the wide tables.")
    control_schema: Identifier = Field(
        "cdc", description="Schema of ledgers, channel map, overflow, dead cells."
    )
    reader_role: Identifier | None = Field(
        None, description="Role that is granted SELECT on every wide table."
    )
    connect_timeout_s: int = Field(10, ge=1, description="Seconds to wait for a connection.")
    lock_timeout_ms: int = Field(
        10_000, ge=1, description="Longest wait for a lock before a batch is retried."
    )
    idle_in_transaction_timeout_ms: int = Field(
        60_000, ge=1000, description="A session that sits in a transaction for longer is ended by the server."
    )


class PipelineSettings(Section):
    """What identifies this pipeline; the hand-off row and the ledgers carry its name."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")] = Field(
        "narrow_to_wide",
        description="Name of the pipeline: default for slot, publication, connector and group.",
    )


LogFormat = Literal["auto", "json", "console"]
