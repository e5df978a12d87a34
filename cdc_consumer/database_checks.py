"""Checks of the two databases: server, roles, narrow table, publication, control schema."""

from __future__ import annotations

from contextlib import closing
from typing import Final

from cdc_consumer import health, source_database
from cdc_consumer.findings import Finding, bad, ok, warning
from cdc_consumer.parts import Parts
from widetable.barrier import source_identity
from widetable.encoding import source_encoding_problem, target_encoding_problem
from widetable.postgres import Connection, connect_ddl, connect_source, connect_target, fetch_one
from widetable.settings import TargetSettings

MB: Final = 1 << 20


def source_answers(parts: Parts) -> Finding:
    """Reachable, in an encoding that can be read, and by a session that stays one."""
    first = parts.source()
    if problem := source_encoding_problem(first):
        return bad(problem)
    with connect_source(parts.settings.source, "cdc-consumer check") as second:
        return session_finding(first, second, "CDC_SOURCE__DSN")


def target_answers(parts: Parts) -> Finding:
    """Reachable, in an encoding that holds every text, and by a session that stays one."""
    first = parts.target()
    if problem := target_encoding_problem(first):
        return bad(problem)
    with connect_target(parts.settings.target, "cdc-consumer check") as second:
        return session_finding(first, second, "CDC_TARGET__DSN")


def session_finding(first: Connection, second: Connection, variable: str) -> Finding:
    """Whether a pooler stands between, and whether it deals out server sessions per transaction.

    A pooler makes up the backend's pid in the handshake. While another session of ours holds a transaction open,
    one that keeps its server session still has it; in transaction mode, the other one took it.
    """
    version = f"PostgreSQL {first.info.parameter_status('server_version')}"
    before = fetch_one(first, "SELECT pg_backend_pid()")[0]
    if first.info.backend_pid == before:
        return ok(version)
    with second.transaction():
        other = fetch_one(second, "SELECT pg_backend_pid()")[0]
        after = fetch_one(first, "SELECT pg_backend_pid()")[0]
    if other == before or after != before:
        return bad(
            f"{version} behind a pooler in transaction mode, which breaks session locks, temporary tables and"
            f" prepared statements: let {variable} go to PostgreSQL itself, or to a pool in session mode"
        )
    return warning(f"{version} behind a pooler in session mode; replication can't pass through it")


def replication(parts: Parts) -> Finding:
    """A server that can stream logical changes, with room for one more reader."""
    server = source_database.server(parts.source())
    if problem := server.problem():
        return bad(problem)
    if server.free_slots < 1 or server.free_senders < 1:
        text = f"{server.free_slots} replication slots and {server.free_senders} WAL senders are free"
        return warning(f"{text}: raise max_replication_slots and max_wal_senders before another `init`")
    return ok(f"wal_level logical, {server.free_slots} slots and {server.free_senders} WAL senders free")


def wal_limit(parts: Parts) -> Finding:
    """An abandoned slot should cost the stream, not the source's disk."""
    limit = source_database.server(parts.source()).wal_budget
    if limit < 0:
        return warning(
            "max_slot_wal_keep_size is unlimited: while nobody reads the slot, its WAL can fill the source's disk;"
            " set it to what the disk can spare"
        )
    return ok(f"a slot may retain {limit // MB:,} MB of WAL")


def source_role(parts: Parts) -> Finding:
    """The rights that `init` needs."""
    source = parts.source()
    role = source_database.role(source)
    made = source_database.publication(source, parts.settings.publication) is not None
    missing = [
        right
        for right, given in (
            ("REPLICATION (ALTER ROLE)", role.may_replicate),
            ("CREATE on the database", role.may_create or made),
        )
        if not given
    ]
    if missing:
        return warning(f"role {role.rolname} lacks {' and '.join(missing)}, which `init` needs")
    if not role.sees_sessions:
        return warning(f"role {role.rolname} lacks pg_read_all_stats, to name what holds up `init`")
    return ok(f"role {role.rolname} has the rights that `init` needs")


def narrow_table(parts: Parts) -> Finding:
    """The table is there, with the columns, key and replica identity that cells depend on."""
    name = parts.settings.source.table
    table = source_database.narrow_table(parts.source(), name)
    if table is None:
        return bad(f"the source has no table {name}: check CDC_SOURCE__TABLE and CDC_SOURCE__DSN")
    problems = list(table.problems(name))
    if not table.readable:
        problems.append(f"the role may not read {name}: GRANT SELECT")
    return bad("; ".join(problems)) if problems else ok(f"{name} has the expected columns and key")


def publication(parts: Parts) -> Finding:
    """Every change of the narrow table is published."""
    settings, source = parts.settings, parts.source()
    found = source_database.publication(source, settings.publication)
    hand_off = parts.hand_off()
    tables = [settings.source.table, settings.source.heartbeat_table]
    if hand_off is not None:
        problem = health.publication_problem(found, hand_off, tables)
        return bad(problem) if problem else ok(f"publication {hand_off.publication} publishes every change")
    if found is None:
        return ok(f"publication {settings.publication} will be made by `init`")
    problems = list(found.problems(settings.publication, tables))
    return (
        warning(f"{'; '.join(problems)}; `init` will change it") if problems else ok("publication is there")
    )


def heartbeat(parts: Parts) -> Finding:
    """The connector moves the heartbeat, so the slot moves on while ships are silent."""
    hand_off = parts.hand_off()
    if hand_off is None:
        return ok("the heartbeat begins with `init`")
    age_s = source_database.heartbeat_age_s(parts.source(), parts.settings.source.heartbeat_table)
    if age_s is None or age_s > health.late_heartbeat_s(parts.settings):
        seen = "was never written" if age_s is None else f"is {age_s:.0f} s old"
        return bad(f"the heartbeat {seen}: the connector does not run, or may not write the heartbeat table")
    return ok(f"the heartbeat is {age_s:.0f} s old")


def target_role(parts: Parts) -> Finding:
    """The rights that schema and data need."""
    settings = parts.settings.target
    with closing(connect_ddl(settings, "cdc-consumer check")) as target:
        return _ddl_finding(target, settings)


def _ddl_finding(target: Connection, settings: TargetSettings) -> Finding:
    lacking = [
        schema
        for schema in dict.fromkeys([settings.wide_schema, settings.control_schema])
        if not _may_create(target, schema)
    ]
    if lacking:
        return bad(
            f"the target role may not create tables in {', '.join(lacking)}: GRANT CREATE, USAGE ON SCHEMA"
        )
    return ok(f"the target role may write to {settings.wide_schema} and {settings.control_schema}")


def _may_create(target: Connection, schema: str) -> bool:
    """In a schema that is there: CREATE on it; else on the database, to make it."""
    query = """
        SELECT coalesce(
            (SELECT has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE')
             FROM pg_namespace n WHERE n.nspname = %s),
            has_database_privilege(current_database(), 'CREATE'))
    """
    return bool(fetch_one(target, query, schema)[0])


def control_schema(parts: Parts) -> Finding:
    """The control schema is this program's version."""
    parts.control()
    return ok(f"control schema {parts.settings.target.control_schema} is up to date")


def same_cluster(parts: Parts) -> Finding:
    """Wide writes in the source's own cluster pass through the slot's decoder, too."""
    source, target = (source_identity(part()).system_identifier for part in (parts.source, parts.target))
    if source != target:
        return ok("source and target are different clusters")
    return ok("source and target share a cluster: each wide write passes through the slot's decoder, too")
