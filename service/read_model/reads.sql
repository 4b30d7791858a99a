-- What the API asks PostgreSQL. One statement is one snapshot: items, totals and position never contradict.
--
-- {generation} is the schema; every other token is filled in by reads.py, from blocks of this file and closed tables.


-- name: page
-- One row for each request of `asked`. `stale` says that the customer is in a campaign whose changed keys have not
-- reached all memberships yet: then the row counts for nothing, and the exact statement is asked.
SELECT
    asked.number,
    live.generation AS live_generation,
    checkpoint.position,
    customer.customer_id IS NOT NULL AS known,
    customer.owner_id::text AS owner_id,
    customer.deleted,
    {parked} AS parked,
    {staleness} AS stale,
    found.*
FROM control.live
CROSS JOIN control.checkpoint
CROSS JOIN {requests}
LEFT JOIN {generation}.customer ON customer.customer_id = asked.customer_id
CROSS JOIN LATERAL (
    {with}
    SELECT counted.counts, page.*
    FROM ({counting}) AS counted
    {join} LATERAL ({paging}) AS page {on}
) AS found
WHERE checkpoint.generation = '{generation}'


-- name: asked_together
-- Requests that waited at the same moment.
unnest(
    $1::uuid[], $2::uuid[], $3::boolean[], $4::bigint[], $5::bigint[], $6::text[], $7::uuid[], $8::bigint[],
    $9::bigint[]
) WITH ORDINALITY AS asked (
    customer_id, owner_scope, deletion, page_limit, page_offset, after_key, after_campaign_id, min_position,
    items_bytes_max, number
)


-- name: asked_alone
-- One request. The planner sees its values, which is what a search or an unusual order needs.
(
    SELECT
        $1::uuid AS customer_id, $2::uuid AS owner_scope, $3::boolean AS deletion,
        $4::bigint AS page_limit, $5::bigint AS page_offset, $6::text AS after_key, $7::uuid AS after_campaign_id,
        $8::bigint AS min_position, $9::bigint AS items_bytes_max, $10::text AS search_key, $11::text AS search_pattern,
        $12::timestamptz AS date_from, $13::timestamptz AS date_to, 1 AS number
) AS asked


-- name: viewable
-- Whether the caller may see the customer. It stands in every part that reads further tables, as a condition without
-- columns of theirs: PostgreSQL evaluates it once, before it reads anything, so a customer who may not be seen costs
-- what an unknown one costs.
(
    customer.customer_id IS NOT NULL
    AND (asked.owner_scope IS NULL OR customer.owner_id = asked.owner_scope)
    AND (NOT customer.deleted OR coalesce(asked.deletion, true))
)


-- name: parked_reason
-- Why the event at the position that was asked for is not applied, nor will be until an operator retries it.
(
    SELECT coalesce(
        (SELECT reason FROM {generation}.parked_event WHERE parked_event.position = asked.min_position),
        (SELECT 'discarded' FROM control.discarded_event WHERE discarded_event.position = asked.min_position)
    )
    WHERE asked.min_position IS NOT NULL
)


-- name: stale
-- Usually there is no fan-out, and that is all that is asked. Of a few, each is asked for the customer; of many, the
-- customer's campaigns are gone through. The order of each is fixed: OFFSET 0 is not planned across.
CASE
    WHEN NOT coalesce({viewable}, false) THEN false
    WHEN NOT EXISTS (SELECT FROM control.fan_out WHERE fan_out.generation = '{generation}') THEN false
    WHEN
        (SELECT count(*) FROM (SELECT FROM control.fan_out WHERE fan_out.generation = '{generation}' LIMIT 101) AS few)
        <= 100
        THEN coalesce((
            SELECT true
            FROM control.fan_out
            CROSS JOIN LATERAL (
                SELECT
                FROM {generation}.membership
                WHERE membership.customer_id = asked.customer_id AND membership.campaign_id = fan_out.campaign_id
                OFFSET 0
            ) AS own
            WHERE fan_out.generation = '{generation}'
            LIMIT 1
        ), false)
    ELSE coalesce((
        SELECT true
        FROM (
            SELECT membership.campaign_id
            FROM {generation}.membership
            WHERE membership.customer_id = asked.customer_id
            OFFSET 0
        ) AS own
        CROSS JOIN LATERAL (
            SELECT
            FROM control.fan_out
            WHERE fan_out.generation = '{generation}' AND fan_out.campaign_id = own.campaign_id
            OFFSET 0
        ) AS concerned
        LIMIT 1
    ), false)
END


-- name: counts_precomputed
-- When neither q nor dates are given: a handful of rows, however many memberships. Every count with the status and
-- the deletion it is of, in one number.
SELECT
    array_agg(8 * memberships + 2 * status + deleted::int) AS counts,
    sum(memberships) FILTER (WHERE asked.deletion IS NULL OR deleted = asked.deletion)::bigint AS total
FROM {generation}.customer_summary
WHERE customer_summary.customer_id = asked.customer_id
    AND {viewable}
    AND (asked.owner_scope IS NULL OR customer_summary.owner_id = asked.owner_scope)


-- name: counts_matching
-- Counted among the rows that match, deleted or not.
SELECT
    array_agg(8 * memberships + 2 * status + deleted::int) AS counts,
    sum(memberships) FILTER (WHERE asked.deletion IS NULL OR deleted = asked.deletion)::bigint AS total
FROM (
    SELECT {status} AS status, {deleted} AS deleted, count(*) AS memberships
    FROM {source}
    WHERE {matching}
    GROUP BY 1, 2
) AS summed


-- name: rows
-- One row beyond the limit is looked for, to know whether there is a next page. Cards are fetched for a page only,
-- whatever was skipped before it, and only if they are not too many bytes: the size of a card is known without reading
-- what of it is stored apart.
SELECT
    count(*) > asked.page_limit AS has_next,
    coalesce(max(page_bytes), 0) AS items_bytes,
    convert_to(
        coalesce(
            string_agg(card, ',' ORDER BY place)
            FILTER (WHERE place <= asked.page_limit AND page_bytes <= asked.items_bytes_max),
            ''
        ),
        'UTF8'
    ) AS items,
    max(sort_key::text) FILTER (WHERE place = asked.page_limit) AS last_key,
    max(campaign_id::text) FILTER (WHERE place = asked.page_limit) AS last_campaign_id
FROM ({sized}) AS sized


-- name: rows_apart
-- The same for a page of very many bytes: a row for each card, so that neither side ever holds two copies of the page.
SELECT
    has_next,
    items_bytes,
    CASE WHEN items_bytes <= asked.items_bytes_max THEN convert_to(card, 'UTF8') END AS items,
    last_key,
    last_campaign_id,
    place
FROM (
    SELECT
        count(*) OVER () > asked.page_limit AS has_next,
        page_bytes AS items_bytes,
        card,
        max(sort_key::text) FILTER (WHERE place = asked.page_limit) OVER () AS last_key,
        max(campaign_id::text) FILTER (WHERE place = asked.page_limit) OVER () AS last_campaign_id,
        place
    FROM ({sized}) AS sized
) AS listed
WHERE place <= asked.page_limit


-- name: sized
-- The cards of a page, and the bytes of all of them together.
SELECT
    numbered.*,
    campaign.card,
    sum(octet_length(campaign.card)) FILTER (WHERE place <= asked.page_limit) OVER () AS page_bytes
FROM (
    SELECT *, row_number() OVER (ORDER BY sort_key {direction} {nulls}, campaign_id) AS place
    FROM ({keys}) AS fetched
) AS numbered
INNER JOIN {generation}.campaign USING (campaign_id)


-- name: keys_near
-- The campaign id breaks ties, ascending in both directions.
SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
FROM {source}
WHERE {matching} AND (asked.deletion IS NULL OR {deleted} = asked.deletion) {after}
ORDER BY {first_by_prefix} {sort_key} {direction} {nulls}, {campaign_id}
LIMIT asked.page_limit + 1 OFFSET asked.page_offset


-- name: keys_far
-- For a large offset: counted from the nearer end, which the total tells. Beyond the total nothing is looked for.
SELECT *
FROM (
    SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
    FROM {source}
    WHERE {matching} AND (asked.deletion IS NULL OR {deleted} = asked.deletion)
        AND asked.page_offset <= counted.total / 2
    ORDER BY {first_by_prefix} {sort_key} {direction} {nulls}, {campaign_id}
    LIMIT asked.page_limit + 1 OFFSET asked.page_offset
) AS from_the_beginning
UNION ALL
SELECT *
FROM (
    SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
    FROM {source}
    WHERE {matching} AND (asked.deletion IS NULL OR {deleted} = asked.deletion)
        AND asked.page_offset > counted.total / 2 AND asked.page_offset < counted.total
    ORDER BY {first_by_prefix_backward} {sort_key} {backward} {nulls_backward}, {campaign_id} DESC
    LIMIT greatest(least(asked.page_limit + 1, counted.total - asked.page_offset), 0)
    OFFSET greatest(counted.total - asked.page_offset - asked.page_limit - 1, 0)
) AS from_the_end


-- name: membership
{generation}.membership


-- name: membership_and_campaign
{generation}.membership INNER JOIN {generation}.campaign USING (campaign_id)


-- name: visible
-- What the caller may see of the customer's memberships, deleted or not.
membership.customer_id = asked.customer_id
AND {viewable}
AND membership.enrolled_at IS NOT NULL
AND {known}
AND (asked.owner_scope IS NULL OR {owner_id} = asked.owner_scope)


-- name: dated
-- Inclusive on both ends.
AND (asked.date_from IS NULL OR membership.enrolled_at >= asked.date_from)
AND (asked.date_to IS NULL OR membership.enrolled_at <= asked.date_to)


-- name: searched
-- Each text by itself, every character literal. The first condition is implied by the second, and is indexed.
AND {searched_text} LIKE asked.search_pattern
AND (
    strpos(campaign.name_key, asked.search_key) > 0
    OR strpos(campaign.goal_key, asked.search_key) > 0
    OR strpos(campaign.agent_name_key, asked.search_key) > 0
)


-- name: searched_text
-- What the index campaign_by_text is of, to the letter.
(campaign.name_key || E'\n' || coalesce(campaign.goal_key, '') || E'\n' || coalesce(campaign.agent_name_key, ''))


-- name: matched
-- A search is dear, so its result is counted and paged in one go.
WITH matched AS MATERIALIZED (
    SELECT {status} AS status, {deleted} AS deleted, {sort_key} AS sort_key, membership.campaign_id
    FROM {source}
    WHERE {matching}
)


-- name: behind
-- For a cursor: strictly behind a row. The first comparison alone bounds an index scan.
{bound_by_prefix} AND {sort_key} {at_or_beyond} asked.after_key::{sort_type}
AND ({sort_key} {beyond} asked.after_key::{sort_type} OR {campaign_id} > asked.after_campaign_id)


-- name: prefix_order
-- The index campaign_by_name_prefix holds a prefix of the key. Rows come out of it in the order of the prefix, and are
-- sorted by the whole key only among those that share it; a prefix never contradicts the order of the whole.
{sort_prefix} {direction},


-- name: prefix_order_backward
{sort_prefix} {backward},


-- name: prefix_bound
-- Implied by the comparison of the whole key, and indexed.
AND {sort_prefix} {at_or_beyond} left(asked.after_key::{sort_type}, 600)


-- name: behind_nullable
-- For a cursor over a key that may be null; nulls come last in both directions.
AND CASE
    WHEN asked.after_key IS NULL THEN {sort_key} IS NULL AND {campaign_id} > asked.after_campaign_id
    ELSE
        {sort_key} IS NULL
        OR {sort_key} {beyond} asked.after_key::{sort_type}
        OR ({sort_key} = asked.after_key::{sort_type} AND {campaign_id} > asked.after_campaign_id)
END


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
