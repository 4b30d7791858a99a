-- Operations on the parked events of one generation: {generation} is the schema.


-- name: reasons
-- The number of parked events by reason, among those that match the filter.
SELECT reason, count(*) AS events FROM {generation}.parked_event WHERE {filtered} GROUP BY reason ORDER BY 2 DESC, 1;


-- name: newest
SELECT position, reason, first_seen_at, subject, detail FROM {generation}.parked_event
WHERE {filtered}
ORDER BY position DESC LIMIT $5;


-- name: positions
SELECT position FROM {generation}.parked_event WHERE {filtered} ORDER BY position;


-- name: parked_among
SELECT position FROM {generation}.parked_event WHERE position = any($1::bigint[]);


-- name: filtered
-- Included: by reason, by the beginning of the subject, and by the event's type and source; null does not filter, and
-- an empty type or source selects the events that have none. The body is decoded last, because it may be large.
($1::text IS NULL OR reason = $1) AND ($2::text IS NULL OR starts_with(subject, $2))
AND ($3::text IS NULL OR coalesce(control.event_attribute(body, 'type'), '') = $3)
AND ($4::text IS NULL OR coalesce(control.event_attribute(body, 'source'), '') = $4)


-- name: whole
SELECT * FROM {generation}.parked_event WHERE position = $1;


-- name: remove
-- Safe beside a running projector: the caller has locked the checkpoints.
DELETE FROM {generation}.parked_event WHERE position = any($1::bigint[])
RETURNING position;


-- name: still_parked
-- Updates the reason of an event that still cannot be applied; first_seen_at does not change.
UPDATE {generation}.parked_event
SET reason = offered.reason, detail = offered.detail
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS offered (position, reason, detail)
WHERE parked_event.position = offered.position;
