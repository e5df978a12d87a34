-- A table that can't hold its rows is split: its parts are tables of their own, and readers see a view under the
-- name that they expect. `part` 0 is a table that is whole; part n of table t has the number t + 1000 * (n - 1).
ALTER TABLE system
    ADD COLUMN part int NOT NULL DEFAULT 0 CHECK (part >= 0),
    ADD COLUMN reader_no int NOT NULL GENERATED ALWAYS AS (CASE part WHEN 0 THEN table_no ELSE table_no % 1000 END) STORED,
    ADD COLUMN suffix text NOT NULL GENERATED ALWAYS AS
        (CASE part WHEN 0 THEN table_no::text ELSE (table_no % 1000) || 'p' || part END) STORED,
    DROP CONSTRAINT system_name_key,
    ADD UNIQUE (reader_no, part),
    ADD UNIQUE (name, part);
