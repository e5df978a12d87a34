-- The table that collectors write to: one row per sample.
CREATE SCHEMA tenant;

CREATE TABLE tenant.tbl_data_timeseries (
    id bigserial,
    ship_id text,
    data_channel_id text,
    created_time timestamp,
    server_created_time timestamp,
    bool_v bool,
    str_v text,
    long_v bigint,
    double_v float8,
    value_format varchar(50),
    PRIMARY KEY (ship_id, data_channel_id, created_time)
);

CREATE INDEX tbl_data_timeseries_created_time_idx ON tenant.tbl_data_timeseries (created_time DESC);
