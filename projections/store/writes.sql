-- The statements that apply events to a generation of the read model.
--
-- A block starts with `-- name:`; {generation} is the schema, {a_block's_name} includes that block. Registers are
-- last-writer-wins: a row changes only where the offered version is higher than the held one, so a redelivery changes
-- nothing. Rows are written in key order, so that two writers cannot deadlock.


-- name: advance_checkpoint
-- The compare-and-set that stops a former leader: it returns no row when another projector took over or advanced the
-- checkpoint. It comes first in its transaction, so that a refused batch costs one statement.
UPDATE control.checkpoint
SET position = $4, message_time_ns = $5, stream_created = $6, applied_at = now()
WHERE generation = $1 AND position = $2 AND epoch = $3
RETURNING generation;


-- name: notify_readers
-- PostgreSQL delivers notifications at commit, in order. Readers need only those of the live generation.
SELECT pg_notify('membership_applied', payload)
FROM unnest($2::text[]) AS payload
WHERE EXISTS (SELECT FROM control.live WHERE live.generation = $1);


-- name: write_customers
INSERT INTO {generation}.customer AS held (customer_id, version, owner_id, deleted)
SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::boolean[]) AS offered
ORDER BY 1
ON CONFLICT (customer_id) DO UPDATE
SET version = excluded.version, owner_id = excluded.owner_id, deleted = excluded.deleted
WHERE held.version < excluded.version;


-- name: ensure_customers
-- A customer exists from its first enrolment, even before an event of its own.
INSERT INTO {generation}.customer (customer_id)
SELECT DISTINCT customer_id FROM unnest($1::uuid[]) AS enrolled (customer_id)
ORDER BY 1
ON CONFLICT (customer_id) DO NOTHING;


-- name: write_campaigns
-- Definition, status and deletion of a campaign in one row write, however many events changed them. Each register has
-- its own arrays, because most campaigns of a batch write only one; an unwritten register is offered with version 0,
-- which never wins. A full join cannot be planned as a nested loop, however few rows the planner expects.
-- Returns the defined campaigns with members whose keys, copied to the memberships, have changed, and whether an older
-- fan-out of the campaign is still in progress.
WITH written AS (
    INSERT INTO {generation}.campaign AS held (
        campaign_id,
        definition_version, owner_id, created_at, name_key, goal_key, agent_name_key, display_json,
        status_version, status,
        deletion_version, deleted
    )
    SELECT
        campaign_id,
        coalesce(definition.version, 0), owner_id, created_at, name_key, goal_key, agent_name_key, display_json,
        coalesce(status.version, 0), status.status,
        coalesce(deletion.version, 0), coalesce(deletion.deleted, false)
    FROM unnest(
        $1::uuid[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[]
    ) AS definition (campaign_id, version, owner_id, created_at, name_key, goal_key, agent_name_key, display_json)
    FULL JOIN unnest($9::uuid[], $10::bigint[], $11::smallint[])
        AS status (campaign_id, version, status) USING (campaign_id)
    FULL JOIN unnest($12::uuid[], $13::bigint[], $14::boolean[])
        AS deletion (campaign_id, version, deleted) USING (campaign_id)
    ORDER BY 1
    ON CONFLICT (campaign_id) DO UPDATE SET
        definition_version = greatest(held.definition_version, excluded.definition_version),
        owner_id = CASE WHEN held.definition_version < excluded.definition_version
            THEN excluded.owner_id ELSE held.owner_id END,
        created_at = CASE WHEN held.definition_version < excluded.definition_version
            THEN excluded.created_at ELSE held.created_at END,
        name_key = CASE WHEN held.definition_version < excluded.definition_version
            THEN excluded.name_key ELSE held.name_key END,
        goal_key = CASE WHEN held.definition_version < excluded.definition_version
            THEN excluded.goal_key ELSE held.goal_key END,
        agent_name_key = CASE WHEN held.definition_version < excluded.definition_version
            THEN excluded.agent_name_key ELSE held.agent_name_key END,
        display_json = CASE WHEN held.definition_version < excluded.definition_version
            THEN excluded.display_json ELSE held.display_json END,
        status_version = greatest(held.status_version, excluded.status_version),
        status = CASE WHEN held.status_version < excluded.status_version
            THEN excluded.status ELSE held.status END,
        deletion_version = greatest(held.deletion_version, excluded.deletion_version),
        deleted = CASE WHEN held.deletion_version < excluded.deletion_version
            THEN excluded.deleted ELSE held.deleted END
    WHERE held.definition_version < excluded.definition_version
        OR held.status_version < excluded.status_version
        OR held.deletion_version < excluded.deletion_version
    RETURNING WITH (OLD AS o, NEW AS n)
        n.campaign_id,
        n.definition_version > 0
        AND (o.owner_id, o.status, o.deleted) IS DISTINCT FROM (n.owner_id, n.status, n.deleted) AS keys_changed
)
SELECT
    campaign_id,
    EXISTS (
        SELECT FROM control.fan_out
        WHERE fan_out.generation = '{generation}' AND fan_out.campaign_id = written.campaign_id
    ) AS fanning_out
FROM written
WHERE keys_changed
    AND EXISTS (SELECT FROM {generation}.membership WHERE membership.campaign_id = written.campaign_id);


-- name: write_counters
-- Apart from write_campaigns: most events are counters, and a narrow row is rewritten in its own page, without an index.
INSERT INTO {generation}.campaign_counters AS held (
    campaign_id, version, contacts_total, contacts_contacted, contacts_remaining, contacts_to_recall,
    contacts_failed, contacts_succeeded, progress
)
SELECT *
FROM unnest(
    $1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::double precision[]
) AS offered
ORDER BY 1
ON CONFLICT (campaign_id) DO UPDATE SET
    version = excluded.version,
    contacts_total = excluded.contacts_total,
    contacts_contacted = excluded.contacts_contacted,
    contacts_remaining = excluded.contacts_remaining,
    contacts_to_recall = excluded.contacts_to_recall,
    contacts_failed = excluded.contacts_failed,
    contacts_succeeded = excluded.contacts_succeeded,
    progress = excluded.progress
WHERE held.version < excluded.version;


-- name: write_targets
-- Enrolment and presence of a target, with the keys of its campaign if that is already defined. Runs after
-- write_campaigns in the transaction, so that the keys include this batch. Returns
-- how many memberships changed.
WITH moved AS (
    INSERT INTO {generation}.membership AS held (
        customer_id, campaign_id,
        enrolment_version, target_id, enrolled_at, source,
        presence_version, present, presence_reason,
        owner_id, status, campaign_deleted
    )
    SELECT offered.*, campaign.owner_id, campaign.status, campaign.deleted
    FROM unnest(
        $1::uuid[], $2::uuid[],
        $3::bigint[], $4::uuid[], $5::timestamptz[], $6::text[],
        $7::bigint[], $8::boolean[], $9::text[]
    ) AS offered (
        customer_id, campaign_id,
        enrolment_version, target_id, enrolled_at, source,
        presence_version, present, presence_reason
    )
    LEFT JOIN {generation}.campaign
        ON campaign.campaign_id = offered.campaign_id AND campaign.definition_version > 0
    ORDER BY offered.customer_id, offered.campaign_id
    ON CONFLICT (customer_id, campaign_id) DO UPDATE SET
        enrolment_version = greatest(held.enrolment_version, excluded.enrolment_version),
        target_id = CASE WHEN held.enrolment_version < excluded.enrolment_version
            THEN excluded.target_id ELSE held.target_id END,
        enrolled_at = CASE WHEN held.enrolment_version < excluded.enrolment_version
            THEN excluded.enrolled_at ELSE held.enrolled_at END,
        source = CASE WHEN held.enrolment_version < excluded.enrolment_version
            THEN excluded.source ELSE held.source END,
        presence_version = greatest(held.presence_version, excluded.presence_version),
        present = CASE WHEN held.presence_version < excluded.presence_version
            THEN excluded.present ELSE held.present END,
        presence_reason = CASE WHEN held.presence_version < excluded.presence_version
            THEN excluded.presence_reason ELSE held.presence_reason END
    WHERE held.enrolment_version < excluded.enrolment_version
        OR held.presence_version < excluded.presence_version
    {before_and_after}
)
{apply_summary_deltas}
SELECT count(*) FROM moved;


-- name: held_customers
-- The versions that rows hold before a batch is written, 0 without a row: one array per register, in the order of the
-- keys; see projections/model/arrivals.py. LIMIT makes each key one lookup in the index, whatever the planner expects.
SELECT array_agg(coalesce(held.version, 0) ORDER BY number)
FROM unnest($1::uuid[]) WITH ORDINALITY AS offered (customer_id, number)
LEFT JOIN LATERAL (
    SELECT version FROM {generation}.customer WHERE customer.customer_id = offered.customer_id LIMIT 1
) AS held ON true;


-- name: held_campaigns
SELECT
    array_agg(coalesce(definition_version, 0) ORDER BY number),
    array_agg(coalesce(status_version, 0) ORDER BY number),
    array_agg(coalesce(deletion_version, 0) ORDER BY number)
FROM unnest($1::uuid[]) WITH ORDINALITY AS offered (campaign_id, number)
LEFT JOIN LATERAL (
    SELECT definition_version, status_version, deletion_version
    FROM {generation}.campaign
    WHERE campaign.campaign_id = offered.campaign_id
    LIMIT 1
) AS held ON true;


-- name: held_counters
SELECT array_agg(coalesce(held.version, 0) ORDER BY number)
FROM unnest($1::uuid[]) WITH ORDINALITY AS offered (campaign_id, number)
LEFT JOIN LATERAL (
    SELECT version FROM {generation}.campaign_counters WHERE campaign_counters.campaign_id = offered.campaign_id LIMIT 1
) AS held ON true;


-- name: held_targets
SELECT
    array_agg(coalesce(enrolment_version, 0) ORDER BY number),
    array_agg(coalesce(presence_version, 0) ORDER BY number)
FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS offered (customer_id, campaign_id, number)
LEFT JOIN LATERAL (
    SELECT enrolment_version, presence_version
    FROM {generation}.membership
    WHERE membership.customer_id = offered.customer_id AND membership.campaign_id = offered.campaign_id
    LIMIT 1
) AS held ON true;


-- name: next_members
-- The next members of each fan-out, including the one at which it resumes: at most $3 per campaign.
SELECT asked.campaign_id, member.customer_id
FROM unnest($1::uuid[], $2::uuid[]) AS asked (campaign_id, resumes_at)
CROSS JOIN LATERAL (
    SELECT membership.customer_id
    FROM {generation}.membership
    WHERE membership.campaign_id = asked.campaign_id AND membership.customer_id >= asked.resumes_at
    ORDER BY membership.customer_id
    LIMIT $3
) AS member;


-- name: refresh_keys
-- The fan-out: copies the current keys of campaigns to these memberships. Returns the changed customers.
WITH moved AS (
    UPDATE {generation}.membership AS held
    SET owner_id = campaign.owner_id, status = campaign.status, campaign_deleted = campaign.deleted
    FROM unnest($1::uuid[], $2::uuid[]) AS chosen (customer_id, campaign_id)
    INNER JOIN {generation}.campaign
        ON campaign.campaign_id = chosen.campaign_id AND campaign.definition_version > 0
    WHERE held.customer_id = chosen.customer_id
        AND held.campaign_id = chosen.campaign_id
        AND (held.owner_id, held.status, held.campaign_deleted)
            IS DISTINCT FROM (campaign.owner_id, campaign.status, campaign.deleted)
    {before_and_after}
)
{apply_summary_deltas}
SELECT customer_id::text FROM moved;


-- name: record_fan_outs
-- The remaining fan-outs. A campaign already recorded keeps its turn, and resumes at the new customer.
INSERT INTO control.fan_out AS held (generation, campaign_id, resumes_at)
SELECT $1, * FROM unnest($2::uuid[], $3::uuid[]) AS left_over
ON CONFLICT (generation, campaign_id) DO UPDATE
SET resumes_at = excluded.resumes_at
WHERE held.resumes_at <> excluded.resumes_at;


-- name: recorded_fan_outs
SELECT campaign_id, resumes_at FROM control.fan_out WHERE generation = $1 ORDER BY turn LIMIT $2;


-- name: delete_fan_outs
DELETE FROM control.fan_out WHERE generation = $1 AND campaign_id = any($2::uuid[]);


-- name: before_and_after
-- Included by the statements that change memberships: the row before and after.
RETURNING WITH (OLD AS o, NEW AS n)
    n.customer_id,
    o.enrolled_at AS old_enrolled_at, o.owner_id AS old_owner_id, o.status AS old_status, o.deleted AS old_deleted,
    n.enrolled_at AS new_enrolled_at, n.owner_id AS new_owner_id, n.status AS new_status, n.deleted AS new_deleted


-- name: apply_summary_deltas
-- Included by the statements that change memberships: the summaries change in the same statement, so they always match.
-- A count that becomes zero is deleted, so that a rebuild gives the same rows. MERGE and not an upsert: an upsert would
-- write the zero first, and another statement would have to find it. No row can appear between its lookup and its
-- insertion, because everything that writes memberships holds the checkpoint's lock.
, delta AS (
    SELECT customer_id, owner_id, status, deleted, sum(change) AS change
    FROM (
        SELECT customer_id, new_owner_id AS owner_id, new_status AS status, new_deleted AS deleted, 1 AS change
        FROM moved
        WHERE new_enrolled_at IS NOT NULL AND new_owner_id IS NOT NULL
        UNION ALL
        SELECT customer_id, old_owner_id, old_status, old_deleted, -1
        FROM moved
        WHERE old_enrolled_at IS NOT NULL AND old_owner_id IS NOT NULL
    ) AS change
    GROUP BY customer_id, owner_id, status, deleted
    HAVING sum(change) <> 0
), counted AS (
    MERGE INTO {generation}.customer_summary AS held
    USING (SELECT * FROM delta ORDER BY customer_id, owner_id, status, deleted) AS delta
    ON held.customer_id = delta.customer_id
        AND held.owner_id = delta.owner_id
        AND held.status = delta.status
        AND held.deleted = delta.deleted
    WHEN MATCHED AND held.memberships + delta.change = 0 THEN DELETE
    WHEN MATCHED THEN UPDATE SET memberships = held.memberships + delta.change
    WHEN NOT MATCHED THEN
        INSERT (customer_id, owner_id, status, deleted, memberships)
        VALUES (delta.customer_id, delta.owner_id, delta.status, delta.deleted, delta.change)
)


-- name: park_events
-- A position is parked only once, even when it is delivered again, and never after an operator has discarded it: a new
-- database over a restored stream reads it again.
INSERT INTO {generation}.parked_event (position, subject, headers, body, reason, detail)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::json[], $4::bytea[], $5::text[], $6::text[])
    AS parked (position, subject, headers, body, reason, detail)
WHERE NOT EXISTS (SELECT FROM control.discarded_event WHERE discarded_event.position = parked.position)
ON CONFLICT (position) DO NOTHING;


-- name: count_refused
SELECT count(*) FROM {generation}.parked_event WHERE reason = $1;
