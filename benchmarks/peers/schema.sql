-- The peers' tables: the same facts, normalised as a platform of this kind would store them.
--
-- No foreign keys: an event may arrive before the row it refers to. A version of 0 means that no event wrote it yet.


-- name: tables
DROP SCHEMA IF EXISTS peer CASCADE;
CREATE SCHEMA peer;

CREATE TABLE peer.customer (
    customer_id uuid PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    owner_id uuid,
    deleted boolean NOT NULL DEFAULT false
);

CREATE TABLE peer.campaign (
    campaign_id uuid PRIMARY KEY,
    definition_version bigint NOT NULL DEFAULT 0,
    owner_id uuid,
    created_at timestamptz,
    name text,
    agent_id uuid,
    agent_name text,
    phone_number_id uuid,
    phone_number text,
    whatsapp_channel_id uuid,
    goal text,
    goal_spec jsonb,
    first_contact_channel text,
    call_opening_message text,
    whatsapp_first_message text,
    whatsapp_after_attempts bigint,
    call_attempt_delays bigint [],
    call_working_hours jsonb,
    stages jsonb,
    -- Search and sort keys: without accents, casefolded, in code point order.
    name_key text COLLATE "C",
    goal_key text COLLATE "C",
    agent_name_key text COLLATE "C",
    status_version bigint NOT NULL DEFAULT 0,
    status smallint,
    deletion_version bigint NOT NULL DEFAULT 0,
    deleted boolean NOT NULL DEFAULT false
) WITH (fillfactor = 90);
COMMENT ON COLUMN peer.campaign.status IS 'Index into draft, running, paused, done: sorts in lifecycle order.';

-- Separate from the campaign, because counters change much more often.
CREATE TABLE peer.counters (
    campaign_id uuid PRIMARY KEY,
    version bigint NOT NULL,
    contacts_total bigint NOT NULL,
    contacts_contacted bigint NOT NULL,
    contacts_remaining bigint NOT NULL,
    contacts_to_recall bigint NOT NULL,
    contacts_failed bigint NOT NULL,
    contacts_succeeded bigint NOT NULL,
    progress double precision NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE peer.campaign_target (
    customer_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    enrolment_version bigint NOT NULL DEFAULT 0,
    target_id uuid,
    enrolled_at timestamptz,
    source text,
    presence_version bigint NOT NULL,
    present boolean NOT NULL,
    presence_reason text,
    PRIMARY KEY (customer_id, campaign_id)
) WITH (fillfactor = 85);


-- name: indexes
-- A page in the default order, bounded by dates; covers counting.
CREATE INDEX campaign_target_by_enrolled_at
ON peer.campaign_target (customer_id, enrolled_at DESC, campaign_id) INCLUDE (present)
WHERE enrolled_at IS NOT NULL;

-- Covers counting and filtering, so that the wide rows need not be read.
CREATE INDEX campaign_keys ON peer.campaign (campaign_id) INCLUDE (definition_version, status, deleted);

-- The members of a campaign, which a platform needs too.
CREATE INDEX campaign_target_by_campaign ON peer.campaign_target (campaign_id);


-- name: fill_customer
INSERT INTO peer.customer (customer_id, version, owner_id, deleted)
SELECT customer_id, version, owner_id, deleted FROM {generation}.customer;


-- name: fill_campaign
INSERT INTO peer.campaign (
    campaign_id, definition_version, owner_id, created_at, name, agent_id, agent_name, phone_number_id, phone_number,
    whatsapp_channel_id, goal, goal_spec, first_contact_channel, call_opening_message, whatsapp_first_message,
    whatsapp_after_attempts, call_attempt_delays, call_working_hours, stages, name_key, goal_key, agent_name_key,
    status_version, status, deletion_version, deleted
)
SELECT
    stored.campaign_id, stored.definition_version, stored.owner_id, stored.created_at,
    shown.name, shown.agent_id, shown.agent_name, shown.phone_number_id, shown.phone_number,
    shown.whatsapp_channel_id, shown.goal, shown.goal_spec, shown.first_contact_channel, shown.call_opening_message,
    shown.whatsapp_first_message, shown.whatsapp_after_attempts, shown.call_attempt_delays, shown.call_working_hours,
    shown.stages, stored.name_key, stored.goal_key, stored.agent_name_key,
    stored.status_version, stored.status, stored.deletion_version, stored.deleted
FROM {generation}.campaign AS stored
-- A campaign known only by its status or deletion has no display yet: one row of nulls, not none.
CROSS JOIN jsonb_to_record(coalesce(('{' || stored.display_json || '}')::jsonb, '{}')) AS shown (
    name text, agent_id uuid, agent_name text, phone_number_id uuid, phone_number text, whatsapp_channel_id uuid,
    goal text, goal_spec jsonb, first_contact_channel text, call_opening_message text, whatsapp_first_message text,
    whatsapp_after_attempts bigint, call_attempt_delays bigint [], call_working_hours jsonb, stages jsonb
);


-- name: fill_counters
INSERT INTO peer.counters (
    campaign_id, version, contacts_total, contacts_contacted, contacts_remaining, contacts_to_recall,
    contacts_failed, contacts_succeeded, progress
)
SELECT
    campaign_id, version, contacts_total, contacts_contacted, contacts_remaining, contacts_to_recall,
    contacts_failed, contacts_succeeded, progress
FROM {generation}.campaign_counters;


-- name: fill_campaign_target
INSERT INTO peer.campaign_target (
    customer_id, campaign_id, enrolment_version, target_id, enrolled_at, source,
    presence_version, present, presence_reason
)
SELECT
    customer_id, campaign_id, enrolment_version, target_id, enrolled_at, source,
    presence_version, present, presence_reason
FROM {generation}.membership;
