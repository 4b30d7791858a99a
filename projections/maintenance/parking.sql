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


-- name: count
SELECT count(*) AS events FROM {generation}.parked_event WHERE {filtered};


-- name: page
-- Parked events before a position, newest first, with the attributes that their bodies state.
SELECT
    position,
    subject,
    reason,
    left(detail, $6) AS detail,
    control.event_attribute(body, 'type') AS type,
    control.event_attribute(body, 'source') AS source,
    first_seen_at
FROM {generation}.parked_event
WHERE {filtered} AND ($5::bigint IS NULL OR position < $5)
ORDER BY position DESC LIMIT $7;


-- name: groups
-- The parked events that match the filter by reason, type and source, the largest groups first; how many were first seen
-- in each of the last 24 hours, by hours ago; and how many groups there are.
WITH seen AS (
    SELECT
        reason,
        control.event_attribute(body, 'type') AS type,
        control.event_attribute(body, 'source') AS source,
        first_seen_at,
        floor(extract(epoch FROM now() - first_seen_at) / 3600)::int AS hours_ago
    FROM {generation}.parked_event
    WHERE {filtered}
),

by_hour AS (
    SELECT
        reason, type, source, hours_ago,
        count(*) AS events,
        min(first_seen_at) AS first_seen_at,
        max(first_seen_at) AS last_seen_at
    FROM seen
    GROUP BY reason, type, source, hours_ago
)

SELECT
    reason,
    type,
    source,
    sum(events)::bigint AS events,
    min(first_seen_at) AS first_seen_at,
    max(last_seen_at) AS last_seen_at,
    array_agg(hours_ago) AS hours,
    array_agg(events) AS events_by_hour,
    count(*) OVER () AS all_groups,
    (sum(sum(events)) OVER ())::bigint AS all_events
FROM by_hour
GROUP BY reason, type, source
ORDER BY events DESC, reason, type, source
LIMIT $5;
