-- What differs between rows that are held and rows as the stream would have them. {held} and {wanted} are schemas,
-- {table} a table of both, {columns} its columns that are written, {scope} a condition on both sides.


-- name: written_columns
-- The columns that are written: generated ones follow from them. Of a parked event only what the stream decides: when
-- it was first seen, and the words it was refused in, belong to whoever saw and refused it.
SELECT attname
FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    AND attname NOT IN ('first_seen_at', 'detail', 'headers')
ORDER BY attnum;


-- name: sides
-- Included: both sides by key. A row that one side lacks is null there.
FROM (SELECT {columns} FROM {held}.{table} WHERE {scope}) AS held
FULL JOIN (SELECT {columns} FROM {wanted}.{table} WHERE {scope}) AS wanted ON {same_key}
WHERE held IS DISTINCT FROM wanted


-- name: count
SELECT count(*) {sides};


-- name: rows
-- In the order of the key, as the JSON of whole rows: what is shown is what a repair writes.
SELECT to_jsonb(held) AS held, to_jsonb(wanted) AS wanted {sides} ORDER BY {key} LIMIT {rows_max};


-- name: remove
-- The rows of a diff that are to go or to be replaced.
DELETE FROM {held}.{table} AS held
USING jsonb_populate_recordset(null::{held}.{table}, $1::jsonb) AS wanted
WHERE {same_key};


-- name: insert
-- The rows of a diff as they were shown.
INSERT INTO {held}.{table} ({columns})
SELECT {columns} FROM jsonb_populate_recordset(null::{held}.{table}, $1::jsonb);
