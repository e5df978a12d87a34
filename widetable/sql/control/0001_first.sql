-- The control schema: everything the two programs must agree on, in the target database.
-- The schema itself is created, and put on the search path, by widetable.control.

-- What shapes the wide tables. One row; `version` rises with every change of a table or of the channel map,
-- and every transaction that writes compares it under the shared layout lock.
CREATE TABLE layout (
    one_row     boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    version     bigint NOT NULL DEFAULT 1,
    column_type text NOT NULL CHECK (column_type IN ('text', 'typed')),
    wide_schema text NOT NULL,
    deletes     text NOT NULL DEFAULT 'apply' CHECK (deletes IN ('apply', 'ignore')),
    new_channels text NOT NULL DEFAULT 'auto' CHECK (new_channels IN ('auto', 'manual')),
    new_ships   text NOT NULL DEFAULT 'auto' CHECK (new_ships IN ('auto', 'manual'))
);

-- The tables of each ship: number, what it is called, and which one takes channels that no rule names.
CREATE TABLE system (
    table_no   int PRIMARY KEY CHECK (table_no > 0),
    name       text NOT NULL UNIQUE,
    is_default boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX one_default_system ON system (is_default) WHERE is_default;

-- A channel that nobody has seen joins the table of the first rule (by position) whose prefix it has.
CREATE TABLE prefix_rule (
    position int PRIMARY KEY,
    prefix   text NOT NULL UNIQUE,
    table_no int NOT NULL REFERENCES system
);

-- The channel map. `ordinal` is immutable: versions in `_x` are stored under it. While `pending`, a channel's
-- cells go to overflow, also after its column exists; the last drain makes it `live`.
CREATE TABLE channel (
    channel_id  text PRIMARY KEY,
    ordinal     int GENERATED ALWAYS AS IDENTITY UNIQUE,
    table_no    int NOT NULL REFERENCES system,
    column_name text NOT NULL,
    column_type text NOT NULL CHECK (column_type IN ('text', 'float8', 'int8', 'bool')),
    state       text NOT NULL DEFAULT 'live' CHECK (state IN ('pending', 'live')),
    added_at    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (table_no, column_name)
);

-- `table_prefix` is the lower-case ship id; UNIQUE because ids that differ in case only would share tables.
CREATE TABLE ship (
    ship_id      text PRIMARY KEY,
    table_prefix text NOT NULL UNIQUE,
    state        text NOT NULL DEFAULT 'live' CHECK (state IN ('pending', 'live')),
    added_at     timestamptz NOT NULL DEFAULT now()
);

-- What ties slot, barrier and offsets together: one row per epoch, the life of one slot.
CREATE TABLE hand_off (
    pipeline          text NOT NULL,
    epoch             int NOT NULL CHECK (epoch > 0),
    system_identifier text NOT NULL,  -- of the source cluster
    timeline          int NOT NULL,
    slot              text NOT NULL,
    publication       text NOT NULL,
    consistent_point  pg_lsn NOT NULL,     -- L0: what commits at or after it is in the stream
    barrier_xid       xid8 NOT NULL,       -- S0: what committed before L0 has a smaller xid
    topic             text NOT NULL,
    topic_id          text NOT NULL,
    boundary_offsets  jsonb NOT NULL,      -- {partition: first offset of this epoch}
    placeholder       text NOT NULL,       -- what Debezium writes for an unchanged TOASTed value
    created_at        timestamptz NOT NULL DEFAULT now(),
    ended_at          timestamptz,         -- set when the slot was given up on purpose: a new epoch may begin
    verify_required   text,                -- why all cells must be verified (a gap, a truncate); NULL: no reason
    PRIMARY KEY (pipeline, epoch)
);

-- Kafka offsets live here, in the same transaction as the data. `fence` changes with every owner, `batch_no`
-- with every batch: together they make each partition's batches one chain.
CREATE TABLE offset_ledger (
    pipeline       text NOT NULL,
    topic_id       text NOT NULL,
    partition      int NOT NULL,
    next_offset    bigint NOT NULL,
    batch_no       bigint NOT NULL DEFAULT 0,
    fence          bigint NOT NULL DEFAULT 0,
    owner          text,
    backend_pid    int,
    backend_start  timestamptz,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, topic_id, partition)
) WITH (fillfactor = 50);  -- updated once per batch: leave room for HOT

-- A resync under way holds every ledger row of its pipeline. Its session stands here, so that a live writer
-- that waits for one too long may end it.
CREATE TABLE resync (
    pipeline      text PRIMARY KEY,
    backend_pid   int NOT NULL,
    backend_start timestamptz NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT now()
);

-- How far the target is known to hold all that the source committed.
CREATE TABLE settled (
    pipeline    text PRIMARY KEY,
    epoch       int NOT NULL,
    settled_lsn pg_lsn NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- History: a plan cuts a time range of some ships into slices.
CREATE TABLE plan (
    plan_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline   text NOT NULL,
    epoch      int,                        -- NULL: a copy without a hand-off
    ships      text[] NOT NULL,
    from_us    bigint,                     -- NULL: no bound
    until_us   bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

-- Bounds are microseconds since 1970, lower inclusive, upper exclusive; NULL is no bound. A slice is done if and
-- only if its data is there: both are one transaction.
CREATE TABLE slice (
    plan_id    bigint NOT NULL REFERENCES plan ON DELETE CASCADE,
    slice_no   bigint NOT NULL,
    lower_us   bigint,
    upper_us   bigint,
    state      text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed', 'split')),
    attempt    int NOT NULL DEFAULT 0,     -- rises with every claim and never falls: it is the fence
    failures   int NOT NULL DEFAULT 0,     -- attempts that came to nothing since a person last asked to retry
    not_before timestamptz NOT NULL DEFAULT '-infinity',
    worker     text,
    estimate   bigint NOT NULL DEFAULT 0,
    rows       bigint,
    cells      bigint,
    snapshot   text,
    error      text,
    backend_pid   int,
    backend_start timestamptz,
    started_at timestamptz,
    done_at    timestamptz,
    PRIMARY KEY (plan_id, slice_no)
);
CREATE INDEX slice_open ON slice (plan_id, slice_no) WHERE state IN ('waiting', 'running');

-- Cells that have no place in a wide table (yet). Obeys the rule of the wide cell: `value` is the cell and
-- (epoch, lsn, kind) its version, NULL where it was never updated or deleted.
CREATE TABLE overflow_cell (
    ship_id      text NOT NULL,
    created_time timestamp NOT NULL,
    channel_id   text NOT NULL,
    value        text,
    value_format text,
    epoch        int,
    lsn          bigint,
    kind         text CHECK (kind IN ('u', 'd', 's', 'k', 'c')),
    reason       text NOT NULL,  -- no_ship, no_channel, pending, does_not_fit, row_too_big
    added_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (ship_id, created_time, channel_id),
    CHECK ((epoch IS NULL) = (kind IS NULL) AND (lsn IS NULL) = (kind IS NULL))
);
CREATE INDEX overflow_cell_channel ON overflow_cell (channel_id, ship_id, created_time);

-- Values that can't be stored anywhere. From the stream: unique by coordinates and cell; from history: by cell.
CREATE TABLE dead_cell (
    dead_no      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline     text NOT NULL,
    topic        text,
    topic_id     text,
    partition    int,
    kafka_offset bigint,
    ship_id      text,
    channel_id   text,
    created_time text,                     -- text: it may be infinite
    reason       text NOT NULL,
    detail       text NOT NULL,
    headers      jsonb NOT NULL DEFAULT '{}',  -- named as those of Connect's dead letter queue
    raw_key      bytea,
    raw_value    bytea,
    added_at     timestamptz NOT NULL DEFAULT now()
);
-- The moment, too: a change of a sample's moment is one message of two cells.
CREATE UNIQUE INDEX dead_cell_stream
    ON dead_cell (topic_id, partition, kafka_offset, coalesce(channel_id, ''), coalesce(created_time, ''))
    WHERE topic_id IS NOT NULL;
CREATE UNIQUE INDEX dead_cell_history ON dead_cell (ship_id, created_time, channel_id) WHERE topic_id IS NULL;

-- What verify has proven: all moments of the ship before this one were equal at that time.
CREATE TABLE verified (
    pipeline         text NOT NULL,
    ship_id          text NOT NULL,
    verified_through timestamp NOT NULL,
    cells            bigint NOT NULL,
    checked_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, ship_id)
);
