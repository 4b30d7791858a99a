-- The API's statements. One statement is one snapshot: items, totals and position never contradict each other.
--
-- {generation} is the schema; reads.py fills in every other token, from blocks of this file and fixed tables.


-- name: page
-- One row per request, or per item of a large page. `stale` means that the customer is in a campaign whose changed keys
-- have not been propagated to all memberships yet: then the row is discarded and the exact statement is run.
SELECT
    request.number,
    {live_generation} AS live_generation,
    checkpoint.position,
    customer.customer_id IS NOT NULL AS known,
    customer.owner_id::text AS owner_id,
    customer.deleted,
    {parked} AS parked,
    {staleness} AS stale,
    result.*
FROM control.live
CROSS JOIN control.checkpoint
CROSS JOIN {requests}
LEFT JOIN {generation}.customer ON customer.customer_id = request.customer_id
CROSS JOIN LATERAL (
    {with}
    SELECT counted.counts, page.*
    FROM ({counting}) AS counted
    {join} LATERAL ({paging}) AS page {on}
) AS result
WHERE checkpoint.generation = '{generation}'


-- name: request_batch
-- The requests of a batch.
unnest(
    $1::uuid[], $2::uuid[], $3::boolean[], $4::bigint[], $5::bigint[], $6::text[], $7::uuid[], $8::bigint[],
    $9::bigint[]
) WITH ORDINALITY AS request (
    customer_id, owner_scope, deletion, page_limit, page_offset, after_key, after_campaign_id, min_position,
    items_bytes_max, number
)


-- name: request_single
-- One request. The planner sees its values, which a search or a non-default order needs for a good plan.
(
    SELECT
        $1::uuid AS customer_id, $2::uuid AS owner_scope, $3::boolean AS deletion,
        $4::bigint AS page_limit, $5::bigint AS page_offset, $6::text AS after_key, $7::uuid AS after_campaign_id,
        $8::bigint AS min_position, $9::bigint AS items_bytes_max, $10::text AS search_key, $11::text AS search_pattern,
        $12::timestamptz AS date_from, $13::timestamptz AS date_to, 1 AS number
) AS request


-- name: viewable
-- Whether the caller may see the customer. It is repeated in every part that reads further tables, as a condition
-- without their columns: PostgreSQL evaluates it once, before it reads anything, so a hidden customer costs the same as
-- an unknown one.
(
    customer.customer_id IS NOT NULL
    AND (request.owner_scope IS NULL OR customer.owner_id = request.owner_scope)
    AND (NOT customer.deleted OR coalesce(request.deletion, true))
)


-- name: parked_reason
-- Why the event at the requested position is not applied, and will not be until an operator retries it.
(
    SELECT coalesce(
        (SELECT reason FROM {generation}.parked_event WHERE parked_event.position = request.min_position),
        (SELECT 'discarded' FROM control.discarded_event WHERE discarded_event.position = request.min_position)
    )
    WHERE request.min_position IS NOT NULL
)


-- name: stale
-- Usually there is no fan-out, and only that is checked. With few fan-outs, look up the customer's membership of each;
-- with many, look up the fan-out of each of the customer's campaigns. OFFSET 0 is an optimization fence: it fixes the
-- order of the lookups.
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
                WHERE membership.customer_id = request.customer_id AND membership.campaign_id = fan_out.campaign_id
                OFFSET 0
            ) AS customer_membership
            WHERE fan_out.generation = '{generation}'
            LIMIT 1
        ), false)
    ELSE coalesce((
        SELECT true
        FROM (
            SELECT membership.campaign_id
            FROM {generation}.membership
            WHERE membership.customer_id = request.customer_id
            OFFSET 0
        ) AS customer_membership
        CROSS JOIN LATERAL (
            SELECT
            FROM control.fan_out
            WHERE fan_out.generation = '{generation}' AND fan_out.campaign_id = customer_membership.campaign_id
            OFFSET 0
        ) AS campaign_fan_out
        LIMIT 1
    ), false)
END


-- name: counts_precomputed
-- For requests without q and dates: reads a few rows, however many memberships. Each count is packed with its status
-- and deletion flag into one number.
SELECT
    array_agg(8 * memberships + 2 * status + deleted::int) AS counts,
    sum(memberships) FILTER (WHERE request.deletion IS NULL OR deleted = request.deletion)::bigint AS total
FROM {generation}.customer_summary
WHERE customer_summary.customer_id = request.customer_id
    AND {viewable}
    AND (request.owner_scope IS NULL OR customer_summary.owner_id = request.owner_scope)


-- name: counts_matching
-- Counts the matching rows, deleted or not.
SELECT
    array_agg(8 * memberships + 2 * status + deleted::int) AS counts,
    sum(memberships) FILTER (WHERE request.deletion IS NULL OR deleted = request.deletion)::bigint AS total
FROM (
    SELECT {status} AS status, {deleted} AS deleted, count(*) AS memberships
    FROM {source}
    WHERE {matching}
    GROUP BY 1, 2
) AS summed


-- name: rows
-- Reads one row beyond the limit, to know whether there is a next page. Cards are put together only for the page, not for
-- skipped rows, and only if they fit the byte limit.
SELECT
    count(*) > request.page_limit AS has_next,
    coalesce(max(page_bytes), 0) AS items_bytes,
    array_agg(convert_to({card}, 'UTF8') ORDER BY place)
        FILTER (WHERE place <= request.page_limit AND page_bytes <= request.items_bytes_max) AS items,
    max(sort_key::text) FILTER (WHERE place = request.page_limit) AS last_key,
    max(campaign_id::text) FILTER (WHERE place = request.page_limit) AS last_campaign_id
FROM ({sized}) AS sized


-- name: rows_separate
-- The same for a large page: one row per card, so that neither PostgreSQL nor this process holds two copies of the page.
SELECT
    has_next,
    items_bytes,
    CASE WHEN items_bytes <= request.items_bytes_max THEN convert_to({card}, 'UTF8') END AS items,
    last_key,
    last_campaign_id,
    place
FROM (
    SELECT
        *,
        count(*) OVER () > request.page_limit AS has_next,
        page_bytes AS items_bytes,
        max(sort_key::text) FILTER (WHERE place = request.page_limit) OVER () AS last_key,
        max(campaign_id::text) FILTER (WHERE place = request.page_limit) OVER () AS last_campaign_id
    FROM ({sized}) AS sized
) AS listed
WHERE place <= request.page_limit


-- name: rows_of_keys
-- Only the page's campaigns, in order, for a worker that caches their cards: it reads no campaign.
SELECT
    count(*) > request.page_limit AS has_next,
    0::bigint AS items_bytes,
    string_agg(campaign_id::text, ',' ORDER BY place) FILTER (WHERE place <= request.page_limit) AS items,
    max(sort_key::text) FILTER (WHERE place = request.page_limit) AS last_key,
    max(campaign_id::text) FILTER (WHERE place = request.page_limit) AS last_campaign_id
FROM (
    SELECT *, row_number() OVER (ORDER BY sort_key {direction} {nulls}, campaign_id) AS place
    FROM ({keys}) AS fetched
) AS numbered


-- name: cards
-- The cards of many campaigns, in one snapshot. A large one is left out.
SELECT
    {live_generation} AS live_generation,
    checkpoint.position,
    campaign_id::text AS campaign_id,
    CASE WHEN {card_bytes_max} <= $2::bigint THEN convert_to({card}, 'UTF8') END AS card
FROM control.live
CROSS JOIN control.checkpoint
CROSS JOIN unnest($1::uuid[]) AS wanted (campaign_id)
LEFT JOIN {card_tables} USING (campaign_id)
WHERE checkpoint.generation = '{generation}'


-- name: sized
-- The columns of the cards of a page, and the most bytes that its cards can have together. OFFSET 0 is an optimization
-- fence: one lookup per row of the page, however many rows the planner expects of an offset that it does not know.
SELECT *, sum({card_bytes_max}) FILTER (WHERE place <= request.page_limit) OVER () AS page_bytes
FROM (
    SELECT *, row_number() OVER (ORDER BY sort_key {direction} {nulls}, campaign_id) AS place
    FROM ({keys}) AS fetched
) AS numbered
INNER JOIN LATERAL (
    SELECT * FROM {card_tables} WHERE card_tables.campaign_id = numbered.campaign_id OFFSET 0
) AS card_columns USING (campaign_id)


-- name: card
-- The item as the API shows it: the members that the definition determines, encoded when they were written, then status
-- and counters as they are now. A double is written as the shortest text that reads back as the same number.
'{"id":"' || campaign_id::text
|| '",' || display_json
|| ',"status":"' || CASE status WHEN 0 THEN 'draft' WHEN 1 THEN 'running' WHEN 2 THEN 'paused' ELSE 'done' END
|| '","contacts_total":' || contacts_total::text
|| ',"contacts_contacted":' || contacts_contacted::text
|| ',"contacts_remaining":' || contacts_remaining::text
|| ',"contacts_to_recall":' || contacts_to_recall::text
|| ',"contacts_failed":' || contacts_failed::text
|| ',"contacts_succeeded":' || contacts_succeeded::text
|| ',"progress":' || progress::text
|| '}'


-- name: card_bytes_max
-- Computed without reading the TOAST data of a long definition. The constant covers all other members at their longest.
(octet_length(display_json) + 400)


-- name: card_tables
-- The columns of which `card` is made, one row per campaign. Counters that were never received are 0.
(
    SELECT
        campaign.campaign_id,
        campaign.display_json,
        campaign.status,
        coalesce(campaign_counters.contacts_total, 0) AS contacts_total,
        coalesce(campaign_counters.contacts_contacted, 0) AS contacts_contacted,
        coalesce(campaign_counters.contacts_remaining, 0) AS contacts_remaining,
        coalesce(campaign_counters.contacts_to_recall, 0) AS contacts_to_recall,
        coalesce(campaign_counters.contacts_failed, 0) AS contacts_failed,
        coalesce(campaign_counters.contacts_succeeded, 0) AS contacts_succeeded,
        coalesce(campaign_counters.progress, 0) AS progress
    FROM {generation}.campaign
    LEFT JOIN {generation}.campaign_counters USING (campaign_id)
) AS card_tables


-- name: keys_shallow
-- The campaign id breaks ties, ascending in both directions.
SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
FROM {source}
WHERE {matching} AND (request.deletion IS NULL OR {deleted} = request.deletion) {after}
ORDER BY {first_by_prefix} {sort_key} {direction} {nulls}, {campaign_id}
LIMIT request.page_limit + 1 OFFSET request.page_offset


-- name: keys_deep
-- For a large offset: counts from the nearer end, found by the total. Beyond the total, no row is read.
SELECT *
FROM (
    SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
    FROM {source}
    WHERE {matching} AND (request.deletion IS NULL OR {deleted} = request.deletion)
        AND request.page_offset <= counted.total / 2
    ORDER BY {first_by_prefix} {sort_key} {direction} {nulls}, {campaign_id}
    LIMIT request.page_limit + 1 OFFSET request.page_offset
) AS from_the_beginning
UNION ALL
SELECT *
FROM (
    SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
    FROM {source}
    WHERE {matching} AND (request.deletion IS NULL OR {deleted} = request.deletion)
        AND request.page_offset > counted.total / 2 AND request.page_offset < counted.total
    ORDER BY {first_by_prefix_backward} {sort_key} {backward} {nulls_backward}, {campaign_id} DESC
    LIMIT greatest(least(request.page_limit + 1, counted.total - request.page_offset), 0)
    OFFSET greatest(counted.total - request.page_offset - request.page_limit - 1, 0)
) AS from_the_end


-- name: keys_deep_sorted
-- For a large offset in an order that no index of the memberships has: all rows are sorted, except near the end. There
-- the constant limit tells the planner that few rows are wanted, so that it may walk an index of the campaigns.
SELECT *
FROM (
    SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
    FROM {source}
    WHERE {matching} AND (request.deletion IS NULL OR {deleted} = request.deletion)
        AND counted.total - request.page_offset > 1000
    ORDER BY {first_by_prefix} {sort_key} {direction} {nulls}, {campaign_id}
    LIMIT request.page_limit + 1 OFFSET request.page_offset
) AS from_the_beginning
UNION ALL
SELECT *
FROM (
    SELECT *
    FROM (
        SELECT {sort_key} AS sort_key, {campaign_id} AS campaign_id
        FROM {source}
        WHERE {matching} AND (request.deletion IS NULL OR {deleted} = request.deletion)
            AND counted.total - request.page_offset BETWEEN 1 AND 1000
        ORDER BY {first_by_prefix_backward} {sort_key} {backward} {nulls_backward}, {campaign_id} DESC
        LIMIT 1000
    ) AS last_rows
    ORDER BY sort_key {backward} {nulls_backward}, campaign_id DESC
    LIMIT greatest(least(request.page_limit + 1, counted.total - request.page_offset), 0)
    OFFSET greatest(counted.total - request.page_offset - request.page_limit - 1, 0)
) AS from_the_end


-- name: membership
{generation}.membership


-- name: membership_and_campaign
{generation}.membership INNER JOIN {generation}.campaign USING (campaign_id)


-- name: membership_and_counters
{generation}.membership LEFT JOIN {generation}.campaign_counters USING (campaign_id)


-- name: membership_campaign_and_counters
{generation}.membership
INNER JOIN {generation}.campaign USING (campaign_id)
LEFT JOIN {generation}.campaign_counters USING (campaign_id)


-- name: visible
-- The customer's memberships that the caller may see, deleted or not.
membership.customer_id = request.customer_id
AND {viewable}
AND membership.enrolled_at IS NOT NULL
AND {known}
AND (request.owner_scope IS NULL OR {owner_id} = request.owner_scope)


-- name: dated
-- Inclusive on both ends.
AND (request.date_from IS NULL OR membership.enrolled_at >= request.date_from)
AND (request.date_to IS NULL OR membership.enrolled_at <= request.date_to)


-- name: searched
-- Every character is literal. Two conditions, of which the planner keeps the one that is needed: it knows the key. The
-- first is indexed from three characters on; it is exact, because the texts are joined by line feeds, unless the key has
-- one. The second compares each text by itself, which is faster where the index does not help.
AND (char_length(request.search_key) < 3 OR {searched_text} LIKE request.search_pattern)
AND (
    (char_length(request.search_key) >= 3 AND strpos(request.search_key, E'\n') = 0)
    OR strpos(campaign.name_key, request.search_key) > 0
    OR strpos(campaign.goal_key, request.search_key) > 0
    OR strpos(campaign.agent_name_key, request.search_key) > 0
)


-- name: searched_text
-- Must equal the expression of the index campaign_by_text exactly.
(campaign.name_key || E'\n' || coalesce(campaign.goal_key, '') || E'\n' || coalesce(campaign.agent_name_key, ''))


-- name: matched
-- A search is expensive, so it runs once, for both the counts and the page.
WITH matched AS MATERIALIZED (
    SELECT {status} AS status, {deleted} AS deleted, {sort_key} AS sort_key, membership.campaign_id
    FROM {source}
    WHERE {matching}
)


-- name: after_cursor
-- Rows strictly after the cursor's row. The first comparison alone bounds an index scan.
{bound_by_prefix} AND {sort_key} {at_or_beyond} request.after_key::{sort_type}
AND ({sort_key} {beyond} request.after_key::{sort_type} OR {campaign_id} > request.after_campaign_id)


-- name: prefix_order
-- The index campaign_by_name_prefix holds a prefix of the key. It returns rows in prefix order, and only rows with equal
-- prefixes are then sorted by the whole key; the order by prefix never contradicts the order by whole key.
{sort_prefix} {direction},


-- name: prefix_order_backward
{sort_prefix} {backward},


-- name: prefix_bound
-- Implied by the comparison of whole keys, and indexed.
AND {sort_prefix} {at_or_beyond} left(request.after_key::{sort_type}, 600)


-- name: after_cursor_nullable
-- Like after_cursor, for a key that may be null; nulls come last in both directions.
AND CASE
    WHEN request.after_key IS NULL THEN {sort_key} IS NULL AND {campaign_id} > request.after_campaign_id
    ELSE
        {sort_key} IS NULL
        OR {sort_key} {beyond} request.after_key::{sort_type}
        OR ({sort_key} = request.after_key::{sort_type} AND {campaign_id} > request.after_campaign_id)
END


-- name: name_key_of
-- The whole sort key by name, for a cursor that holds only its beginning.
SELECT name_key FROM {generation}.campaign WHERE campaign_id = $1 AND starts_with(name_key, $2);


-- name: pointer
-- The live generation.
live.generation


-- name: versioned_pointer
-- The live generation and the version of its row, which every change outside a batch replaces (a repair, an erasure, a
-- switch): the position does not show whether a replica has such a change. A row keeps its xmin on a replica.
live.generation || '.' || live.xmin::text


-- name: live_position
-- The live generation, its position, whether it has ever caught up, and the pointer as replicas state it.
SELECT
    live.generation,
    checkpoint.position,
    checkpoint.caught_up_at IS NOT NULL AS caught_up,
    {versioned_pointer} AS versioned_pointer
FROM control.live
INNER JOIN control.checkpoint USING (generation);


-- name: cursor_key
-- The key with which all API processes sign cursors.
SELECT key FROM control.signing_key WHERE purpose = 'cursor';
