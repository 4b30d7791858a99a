-- What operators do with parked events, in one generation: {generation} is the schema.


-- name: reasons
-- How many are parked for which reason, among those the filters leave.
SELECT reason, count(*) AS events FROM {generation}.parked_event WHERE {filtered} GROUP BY reason ORDER BY 2 DESC, 1;


-- name: newest
SELECT position, reason, first_seen_at, subject, detail FROM {generation}.parked_event
WHERE {filtered}
ORDER BY position DESC LIMIT $3;


-- name: positions
SELECT position FROM {generation}.parked_event WHERE {filtered} ORDER BY position;


-- name: parked_among
SELECT position FROM {generation}.parked_event WHERE position = any($1::bigint[]);


-- name: filtered
-- Included: by reason, by the beginning of the subject; null leaves all.
($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR starts_with(subject, $2))


-- name: whole
SELECT * FROM {generation}.parked_event WHERE position = $1;


-- name: take_out
-- Under the projector's eyes: the caller holds the checkpoints still.
DELETE FROM {generation}.parked_event WHERE position = any($1::bigint[])
RETURNING position;


-- name: still_parked
-- The reason of today, where an event still cannot be read; since when it is parked stays as it was.
UPDATE {generation}.parked_event
SET reason = offered.reason, detail = offered.detail
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS offered (position, reason, detail)
WHERE parked_event.position = offered.position;
