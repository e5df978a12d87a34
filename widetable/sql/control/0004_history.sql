-- How many rows a slice had of each ship, {ship: rows}; NULL for slices copied before this column was.
ALTER TABLE slice ADD COLUMN ship_rows jsonb;

-- Indexes of wide tables that are to be built after a load: dropped for it, or new. Recorded in the transaction
-- that drops them, so that a crash forgets none; `definition` is PostgreSQL's own CREATE INDEX.
CREATE TABLE deferred_index (
    schema_name text NOT NULL,
    index_name  text NOT NULL,
    table_name  text NOT NULL,
    definition  text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schema_name, index_name)
);

-- Files of corrections. A file that is imported again has the version that it had the first time, which makes
-- that harmless: what it set is there already, and what came later stays.
CREATE TABLE correction_file (
    pipeline    text NOT NULL,
    digest      text NOT NULL,             -- SHA-256 of the content
    ship_id     text NOT NULL,             -- whose rows they are; '' where the file itself says it
    name        text NOT NULL,
    epoch       int NOT NULL,
    lsn         bigint NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,               -- NULL: interrupted
    cells       bigint,                    -- that the file holds and that could be stored
    PRIMARY KEY (pipeline, digest, ship_id)
);

-- Sessions that write history outside of any slice (`backfill retry`, `backfill import`): live data that waits for
-- one too long may end it, as it may end that of a slice.
CREATE TABLE writer_session (
    backend_pid   int NOT NULL,
    backend_start timestamptz NOT NULL,
    command       text NOT NULL,
    PRIMARY KEY (backend_pid, backend_start)
);
