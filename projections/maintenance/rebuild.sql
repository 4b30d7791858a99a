-- Bulk fill of a new generation: events are folded chunk by chunk, the chunks' registers are copied into bare tables, and
-- the winner of each register is selected at the end. {generation} is the schema, {slice} a number.
--
-- A register's winner has the highest version; of equal versions, the first in the stream, so the lowest chunk. This is
-- the rule of the fold in membership.py and of the upserts in writes.sql; tests compare the three.
-- A table is dropped in the transaction that resolves it, so the existing tables show the remaining work.


-- name: staging
-- Logged tables, so that a rebuild also survives a crash of the server.
CREATE TABLE {generation}.fill_customer (
    chunk bigint NOT NULL,
    customer_id uuid NOT NULL,
    version bigint NOT NULL,
    owner_id uuid NOT NULL,
    deleted boolean NOT NULL
);
CREATE TABLE {generation}.fill_campaign (
    chunk bigint NOT NULL,
    campaign_id uuid NOT NULL,
    definition_version bigint NOT NULL,
    owner_id uuid,
    created_at timestamptz,
    name_key text,
    goal_key text,
    agent_name_key text,
    display_json text,
    status_version bigint NOT NULL,
    status smallint,
    deletion_version bigint NOT NULL,
    deleted boolean NOT NULL
);
CREATE TABLE {generation}.fill_counters (
    chunk bigint NOT NULL,
    campaign_id uuid NOT NULL,
    version bigint NOT NULL,
    contacts_total bigint NOT NULL,
    contacts_contacted bigint NOT NULL,
    contacts_remaining bigint NOT NULL,
    contacts_to_recall bigint NOT NULL,
    contacts_failed bigint NOT NULL,
    contacts_succeeded bigint NOT NULL,
    progress double precision NOT NULL
);
CREATE TABLE {generation}.fill_target (
    chunk bigint NOT NULL,
    customer_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    enrolment_version bigint NOT NULL,
    target_id uuid,
    enrolled_at timestamptz,
    source text,
    presence_version bigint NOT NULL,
    present boolean NOT NULL,
    presence_reason text
) PARTITION BY HASH (customer_id);


-- name: staging_slice
-- A slice is resolved in one short statement, so that a throttled rebuild can pause between them.
CREATE TABLE {generation}.fill_target_{slice} PARTITION OF {generation}.fill_target
FOR VALUES WITH (MODULUS {slices}, REMAINDER {slice});


-- name: resolve_campaigns
WITH known AS (
    SELECT DISTINCT campaign_id FROM {generation}.fill_campaign
), definition AS (
    SELECT DISTINCT ON (campaign_id)
        campaign_id, definition_version, owner_id, created_at, name_key, goal_key, agent_name_key, display_json
    FROM {generation}.fill_campaign WHERE definition_version > 0
    ORDER BY campaign_id, definition_version DESC, chunk
), status AS (
    SELECT DISTINCT ON (campaign_id) campaign_id, status_version, status
    FROM {generation}.fill_campaign WHERE status_version > 0
    ORDER BY campaign_id, status_version DESC, chunk
), deletion AS (
    SELECT DISTINCT ON (campaign_id) campaign_id, deletion_version, deleted
    FROM {generation}.fill_campaign WHERE deletion_version > 0
    ORDER BY campaign_id, deletion_version DESC, chunk
)
INSERT INTO {generation}.campaign (
    campaign_id,
    definition_version, owner_id, created_at, name_key, goal_key, agent_name_key, display_json,
    status_version, status,
    deletion_version, deleted
)
SELECT
    campaign_id,
    coalesce(definition_version, 0), owner_id, created_at, name_key, goal_key, agent_name_key, display_json,
    coalesce(status_version, 0), status,
    coalesce(deletion_version, 0), coalesce(deleted, false)
FROM known
LEFT JOIN definition USING (campaign_id)
LEFT JOIN status USING (campaign_id)
LEFT JOIN deletion USING (campaign_id)
ORDER BY campaign_id;
DROP TABLE {generation}.fill_campaign;


-- name: resolve_counters
INSERT INTO {generation}.campaign_counters (
    campaign_id, version, contacts_total, contacts_contacted, contacts_remaining, contacts_to_recall,
    contacts_failed, contacts_succeeded, progress
)
SELECT DISTINCT ON (campaign_id)
    campaign_id, version, contacts_total, contacts_contacted, contacts_remaining, contacts_to_recall,
    contacts_failed, contacts_succeeded, progress
FROM {generation}.fill_counters
ORDER BY campaign_id, version DESC, chunk;
DROP TABLE {generation}.fill_counters;


-- name: resolve_targets
-- One slice: its memberships with the keys of their campaigns, and the summaries of its customers; a customer is in one
-- slice only. Rows are inserted in primary key order, so a customer's rows are stored together.
-- An enrolment writes both registers with one version, so when it wins the presence it also wins the enrolment register;
-- only the others, removed or restored, are looked up: often none.
WITH presence AS (
    SELECT DISTINCT ON (customer_id, campaign_id) *
    FROM {generation}.fill_target_{slice}
    ORDER BY customer_id, campaign_id, presence_version DESC, chunk
), enrolment AS (
    SELECT DISTINCT ON (customer_id, campaign_id)
        customer_id, campaign_id, offered.enrolment_version, offered.target_id, offered.enrolled_at, offered.source
    FROM {generation}.fill_target_{slice} AS offered
    INNER JOIN presence USING (customer_id, campaign_id)
    WHERE presence.enrolment_version < presence.presence_version AND offered.enrolment_version > 0
    ORDER BY customer_id, campaign_id, offered.enrolment_version DESC, offered.chunk
), placed AS (
    INSERT INTO {generation}.membership (
        customer_id, campaign_id,
        enrolment_version, target_id, enrolled_at, source,
        presence_version, present, presence_reason,
        owner_id, status, campaign_deleted
    )
    SELECT
        presence.customer_id, presence.campaign_id,
        coalesce(chosen.enrolment_version, 0), chosen.target_id, chosen.enrolled_at, chosen.source,
        presence.presence_version, presence.present, presence.presence_reason,
        campaign.owner_id, campaign.status, campaign.deleted
    FROM presence
    LEFT JOIN enrolment
        ON enrolment.customer_id = presence.customer_id AND enrolment.campaign_id = presence.campaign_id
    CROSS JOIN LATERAL (
        SELECT presence.enrolment_version, presence.target_id, presence.enrolled_at, presence.source
        WHERE presence.enrolment_version = presence.presence_version
        UNION ALL
        SELECT enrolment.enrolment_version, enrolment.target_id, enrolment.enrolled_at, enrolment.source
        WHERE presence.enrolment_version < presence.presence_version
    ) AS chosen
    LEFT JOIN {generation}.campaign
        ON campaign.campaign_id = presence.campaign_id AND campaign.definition_version > 0
    ORDER BY presence.customer_id, presence.campaign_id
    RETURNING customer_id, owner_id, status, deleted, enrolled_at
)
INSERT INTO {generation}.customer_summary (customer_id, owner_id, status, deleted, memberships)
SELECT customer_id, owner_id, status, deleted, count(*)
FROM placed
WHERE enrolled_at IS NOT NULL AND owner_id IS NOT NULL
GROUP BY customer_id, owner_id, status, deleted
ORDER BY customer_id, owner_id, status, deleted;
DROP TABLE {generation}.fill_target_{slice};


-- name: resolve_customers
-- Customers with an event of their own, and those known only from an enrolment.
INSERT INTO {generation}.customer (customer_id, version, owner_id, deleted)
SELECT customer_id, coalesce(version, 0), owner_id, coalesce(deleted, false)
FROM (
    SELECT DISTINCT ON (customer_id) customer_id, version, owner_id, deleted
    FROM {generation}.fill_customer
    ORDER BY customer_id, version DESC, chunk
) AS own
FULL JOIN (
    SELECT DISTINCT customer_id FROM {generation}.membership WHERE enrolled_at IS NOT NULL
) AS enrolled USING (customer_id)
ORDER BY customer_id;
DROP TABLE {generation}.fill_customer, {generation}.fill_target;


-- name: relations
-- The existing tables and indexes: they show what is not resolved yet, and what is indexed.
SELECT relname FROM pg_class WHERE relnamespace = '{generation}'::regnamespace;


-- name: forget_discarded
-- Events that an operator has discarded are not parked again.
DELETE FROM {generation}.parked_event
WHERE EXISTS (SELECT FROM control.discarded_event WHERE discarded_event.position = parked_event.position);


-- name: newly_parked
SELECT position FROM {generation}.parked_event
EXCEPT
SELECT position FROM {live}.parked_event
ORDER BY position;


-- name: keep_first_seen
-- An event that is parked again keeps the time at which it was first parked.
UPDATE {generation}.parked_event AS again
SET first_seen_at = before.first_seen_at
FROM {live}.parked_event AS before
WHERE before.position = again.position;


-- name: size
SELECT
    (SELECT count(*) FROM {generation}.customer) AS customers,
    (SELECT count(*) FROM {generation}.membership) AS memberships;
