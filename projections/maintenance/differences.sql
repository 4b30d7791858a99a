-- Differences between held rows and the rows expected from the stream. {held} and {expected} are schemas, {table} is a
-- table of both, {columns} its written columns, {scope} a condition on both sides, {written} that a row has a register.


-- name: written_columns
-- The written columns of this release's tables; generated ones follow from them. Of a parked event, only the columns that the stream determines:
-- the time it was first seen and the wording of the refusal depend on the release that parked it, and headers, of type
-- json, cannot be compared.
SELECT attname
FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
    AND attname NOT IN ('first_seen_at', 'detail', 'headers')
ORDER BY attnum;


-- name: sides
-- Included: both sides joined by key. A row missing on one side is null there.
FROM (SELECT {columns} FROM {held}.{table} WHERE {written} AND {scope}) AS held
FULL JOIN (SELECT {columns} FROM {expected}.{table} WHERE {written} AND {scope}) AS expected ON {same_key}
WHERE held IS DISTINCT FROM expected


-- name: count
SELECT count(*) {sides};


-- name: rows
-- In key order, as JSON of whole rows: a repair writes exactly the rows that are shown.
SELECT to_jsonb(held) AS held, to_jsonb(expected) AS expected {sides} ORDER BY {either_key} LIMIT {rows_max};


-- name: remove
-- The rows that are not expected.
DELETE FROM {held}.{table} AS held
USING jsonb_populate_recordset(null::{held}.{table}, $1::jsonb) AS unexpected
WHERE {same_unexpected_key};


-- name: unset
-- The same where the counters are columns of the campaign: the row stays, as one of which nothing was written.
UPDATE {held}.{table} AS held SET {unwritten}
FROM jsonb_populate_recordset(null::{held}.{table}, $1::jsonb) AS unexpected
WHERE {same_unexpected_key};


-- name: write
-- The expected rows, exactly as they were shown.
INSERT INTO {held}.{table} ({columns})
SELECT {columns} FROM jsonb_populate_recordset(null::{held}.{table}, $1::jsonb)
ON CONFLICT ({key}) DO UPDATE SET {assignments};
