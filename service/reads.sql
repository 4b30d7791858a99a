-- What the API asks PostgreSQL. One statement is one snapshot: items, totals and position never contradict.
--
-- {generation} is the schema; {sort_key}, {direction} and {after} come from closed tables in reads.py.


-- name: page
-- Parameters: customer, owner scope (null: admin), deletion wanted (null: both), limit, offset, search key of q,
-- date_from, date_to; with a cursor also the key and campaign it stands after. One row beyond the limit is fetched,
-- to know whether there is a next page.
SELECT
    (SELECT generation FROM control.live) AS live_generation,
    checkpoint.position,
    customer.customer_id IS NOT NULL AS known,
    customer.owner_id::text AS owner_id,
    customer.deleted,
    counted.counts,
    page.*
FROM control.checkpoint
LEFT JOIN {generation}.customer ON customer.customer_id = $1
CROSS JOIN LATERAL ({counts}) AS counted
CROSS JOIN LATERAL (
    SELECT
        count(*) > $4 AS has_next,
        convert_to(coalesce(string_agg(card, ',' ORDER BY place) FILTER (WHERE place <= $4), ''), 'UTF8') AS items,
        max(sort_key::text) FILTER (WHERE place = $4) AS last_key,
        max(campaign_id::text) FILTER (WHERE place = $4) AS last_campaign_id
    FROM (
        SELECT *, row_number() OVER (ORDER BY sort_key {direction} {nulls}, campaign_id) AS place
        FROM (
            SELECT campaign.card, {sort_key} AS sort_key, membership.campaign_id
            FROM {generation}.membership
            INNER JOIN {generation}.campaign USING (campaign_id)
            WHERE {visible} AND ($3::boolean IS NULL OR membership.deleted = $3) AND {matching} {after}
            -- The campaign id breaks ties, ascending in both directions.
            ORDER BY {sort_key} {direction} {nulls}, membership.campaign_id
            LIMIT $4::bigint + 1 OFFSET $5::bigint
        ) AS fetched
    ) AS numbered
) AS page
WHERE checkpoint.generation = '{generation}';


-- name: visible
-- Included: what the caller may see of the customer's memberships, deleted or not.
membership.customer_id = $1
AND membership.enrolled_at IS NOT NULL
AND membership.owner_id IS NOT NULL
AND ($2::uuid IS NULL OR membership.owner_id = $2)


-- name: matching
-- Included: the search, each text by itself and every character literal, and the dates, inclusive.
($7::timestamptz IS NULL OR membership.enrolled_at >= $7)
AND ($8::timestamptz IS NULL OR membership.enrolled_at <= $8)
AND (
    $6::text IS NULL
    OR strpos(campaign.name_key, $6) > 0
    OR strpos(campaign.goal_key, $6) > 0
    OR strpos(campaign.agent_name_key, $6) > 0
)


-- name: behind
-- Included for a cursor: strictly behind a row. The first comparison alone bounds an index scan.
AND {sort_key} {at_or_beyond} $9::text::{sort_type}
AND ({sort_key} {beyond} $9::text::{sort_type} OR membership.campaign_id > $10::uuid)


-- name: behind_nullable
-- Included for a cursor over a key that may be null; nulls come last in both directions.
AND CASE
    WHEN $9::text IS NULL THEN {sort_key} IS NULL AND membership.campaign_id > $10::uuid
    ELSE
        {sort_key} IS NULL
        OR {sort_key} {beyond} $9::text::{sort_type}
        OR ({sort_key} = $9::text::{sort_type} AND membership.campaign_id > $10::uuid)
END


-- name: counts_precomputed
-- Included when neither q nor dates are given: a handful of rows, however many memberships.
-- counts[1 + 2 * status + deleted], every status and both states.
SELECT array_agg(coalesce(summed.memberships, 0) ORDER BY slot)::bigint[] AS counts
FROM generate_series(0, 7) AS slot
LEFT JOIN (
    SELECT 2 * status + deleted::int AS slot, sum(memberships) AS memberships
    FROM {generation}.customer_summary AS membership
    WHERE customer_id = $1 AND ($2::uuid IS NULL OR owner_id = $2)
    GROUP BY 1
) AS summed USING (slot)


-- name: counts_matching
-- Included when q or dates narrow the list: counted among the rows that match, deleted or not.
SELECT array_agg(coalesce(summed.memberships, 0) ORDER BY slot)::bigint[] AS counts
FROM generate_series(0, 7) AS slot
LEFT JOIN (
    SELECT 2 * membership.status + membership.deleted::int AS slot, count(*) AS memberships
    FROM {generation}.membership
    INNER JOIN {generation}.campaign USING (campaign_id)
    WHERE {visible} AND {matching}
    GROUP BY 1
) AS summed USING (slot)


-- name: name_key_of
-- The sort key of a campaign by name, for a cursor too short to hold all of it.
SELECT name_key FROM {generation}.campaign WHERE campaign_id = $1 AND starts_with(name_key, $2);


-- name: where_we_are
-- The live generation and how far it is.
SELECT live.generation, checkpoint.position, checkpoint.caught_up_at IS NOT NULL AS caught_up
FROM control.live
INNER JOIN control.checkpoint USING (generation);


-- name: cursor_key
-- The key that all API processes sign cursors with.
SELECT key FROM control.signing_key WHERE purpose = 'cursor';
