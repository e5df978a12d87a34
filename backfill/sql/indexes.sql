-- secondary --
-- Indexes that nothing but queries needs: neither a key, nor a constraint's, nor a rule that rows are unique.
SELECT n.nspname, c.relname, t.relname, pg_get_indexdef(i.indexrelid)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = ANY (%s::oid[]) AND NOT i.indisunique AND NOT i.indisreplident
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
ORDER BY n.nspname, c.relname

-- without_brin --
SELECT t.oid FROM unnest(%s::oid[]) t (oid)
WHERE NOT EXISTS (
    SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
    WHERE i.indrelid = t.oid AND i.indisvalid AND m.amname = 'brin' AND a.attname = 'created_time')

-- of_others --
-- A table that this role neither owns nor inherits from who does.
SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c
WHERE c.oid = ANY (%s::oid[]) AND NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY c.relname LIMIT 1

-- record --
INSERT INTO deferred_index (schema_name, index_name, table_name, definition) VALUES (%s, %s, %s, %s)
ON CONFLICT (schema_name, index_name) DO NOTHING

-- record_dropped --
-- What is dropped is what comes back, whatever a run that was killed has on record under that name.
INSERT INTO deferred_index (schema_name, index_name, table_name, definition) VALUES (%s, %s, %s, %s)
ON CONFLICT (schema_name, index_name)
DO UPDATE SET table_name = excluded.table_name, definition = excluded.definition

-- recorded --
SELECT schema_name, index_name, table_name, definition FROM deferred_index ORDER BY schema_name, index_name

-- forget --
DELETE FROM deferred_index WHERE schema_name = %s AND index_name = %s

-- state --
-- Whether the table is there, and the index: NULL if not, false if a build of it was broken off.
SELECT EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = %(table)s),
       (SELECT i.indisvalid FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
         WHERE c.relnamespace = n.oid AND c.relname = %(index)s)
FROM pg_namespace n WHERE n.nspname = %(schema)s

-- lock --
-- Two runs that end at the same time must not build the same index twice.
SELECT pg_try_advisory_lock(hashtextextended('narrow-to-wide indexes ' || current_schema(), 0))
