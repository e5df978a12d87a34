-- `backfill verify --follow`: how far its lap over all moments has come, and what it must look at (again).

-- While there is no row, nobody follows, and nobody notes what is touched.
CREATE TABLE verify_lap (
    pipeline    text PRIMARY KEY,
    laps        bigint NOT NULL DEFAULT 0,  -- finished ones
    position_us bigint,                     -- all before it was looked at in this lap; NULL: nothing yet
    started_at  timestamptz NOT NULL DEFAULT now(),
    due         jsonb NOT NULL DEFAULT '[]',  -- the demands (hand_off.verify_required) made before this lap began
    clean       boolean NOT NULL DEFAULT true -- nothing differed in this lap so far
);

-- Stretches of a ship's moments that changed since they were looked at, or that did not agree then. `taken`: being
-- looked at. It is part of the key, so that a change meanwhile is a row of its own.
CREATE TABLE recheck (
    pipeline text NOT NULL,
    ship_id  text NOT NULL,
    lower_us bigint NOT NULL,               -- microseconds since 1970, upper exclusive
    upper_us bigint NOT NULL,
    taken    boolean NOT NULL DEFAULT false,
    since    timestamptz NOT NULL DEFAULT now(),
    tried_at timestamptz,
    PRIMARY KEY (pipeline, ship_id, lower_us, upper_us, taken)
);
