-- One generation of the read model: the tables that every rebuild creates. {generation} is the schema's name.
--
-- Keys and indexes are in separate blocks: a rebuild fills the bare tables first and sorts once.


-- name: tables
CREATE SCHEMA {generation};

CREATE TABLE {generation}.customer (
    customer_id uuid NOT NULL,
    version bigint NOT NULL DEFAULT 0,
    owner_id uuid,
    deleted boolean NOT NULL DEFAULT false,
    CHECK ((version = 0) = (owner_id IS NULL))
);
COMMENT ON TABLE {generation}.customer IS
'The customers that exist: a customer event or an enrolment of them is known.';
COMMENT ON COLUMN {generation}.customer.version IS
'The register''s version; 0 while the customer is known from enrolments only, and so has no owner.';

-- Texts come last, the longest at the end: PostgreSQL finds a column behind a text only by reading the text's length.
CREATE TABLE {generation}.campaign (
    campaign_id uuid NOT NULL,
    definition_version bigint NOT NULL DEFAULT 0,
    status_version bigint NOT NULL DEFAULT 0,
    deletion_version bigint NOT NULL DEFAULT 0,
    owner_id uuid,
    created_at timestamptz,
    status smallint CHECK (status BETWEEN 0 AND 3),
    deleted boolean NOT NULL DEFAULT false,
    name_key text COLLATE "C",
    goal_key text COLLATE "C",
    agent_name_key text COLLATE "C",
    display_json text,
    CHECK ((definition_version = 0) = (display_json IS NULL)),
    CHECK (definition_version <= status_version)
) WITH (fillfactor = 80);
COMMENT ON TABLE {generation}.campaign IS
'A campaign''s definition, status and deletion. A version of 0 means that the register was never written.';
COMMENT ON COLUMN {generation}.campaign.display_json IS
'The members of the item''s JSON that the definition determines, encoded once when it is written.';
COMMENT ON COLUMN {generation}.campaign.status IS
'Index into draft, running, paused, done: sorts in lifecycle order.';

CREATE TABLE {generation}.campaign_counters (
    campaign_id uuid NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    contacts_total bigint NOT NULL,
    contacts_contacted bigint NOT NULL,
    contacts_remaining bigint NOT NULL,
    contacts_to_recall bigint NOT NULL,
    contacts_failed bigint NOT NULL,
    contacts_succeeded bigint NOT NULL,
    progress double precision NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE {generation}.campaign_counters IS
'A campaign''s counters, once a counter event is known; without a row all are 0. Apart from the campaign because they
change most often and are sorted by: a row of 100 bytes is rewritten and read faster than one with the texts.';

CREATE TABLE {generation}.membership (
    customer_id uuid NOT NULL,
    campaign_id uuid NOT NULL,
    enrolment_version bigint NOT NULL DEFAULT 0,
    target_id uuid,
    enrolled_at timestamptz,
    source text,
    presence_version bigint NOT NULL,
    present boolean NOT NULL,
    presence_reason text,
    owner_id uuid,
    status smallint,
    campaign_deleted boolean,
    deleted boolean GENERATED ALWAYS AS (NOT present OR campaign_deleted) STORED,
    CHECK ((enrolment_version = 0) = (enrolled_at IS NULL)),
    CHECK ((owner_id IS NULL) = (status IS NULL) AND (owner_id IS NULL) = (campaign_deleted IS NULL))
) WITH (fillfactor = 85);
COMMENT ON TABLE {generation}.membership IS
'A customer in a campaign. Visible material once enrolled_at (the enrolment) and owner_id (the campaign) are known.';
COMMENT ON COLUMN {generation}.membership.owner_id IS
'With status and campaign_deleted the campaign''s keys, copied here; they change in the transaction that changes them
there, and customer_summary with them.';

CREATE TABLE {generation}.customer_summary (
    customer_id uuid NOT NULL,
    owner_id uuid NOT NULL,
    status smallint NOT NULL,
    deleted boolean NOT NULL,
    memberships bigint NOT NULL
) WITH (fillfactor = 80);
COMMENT ON TABLE {generation}.customer_summary IS
'How many visible memberships a customer has, by owner of the campaign, status and deletion: exact, never zero.';

CREATE TABLE {generation}.parked_event (
    position bigint PRIMARY KEY,
    subject text NOT NULL,
    headers json,
    body bytea NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE {generation}.parked_event IS
'Messages that could not be applied, whole, with the reason. Written with the checkpoint, so none is lost.';


-- name: key_of_customer
ALTER TABLE {generation}.customer ADD PRIMARY KEY (customer_id);


-- name: key_of_campaign
ALTER TABLE {generation}.campaign ADD PRIMARY KEY (campaign_id);


-- name: key_of_campaign_counters
ALTER TABLE {generation}.campaign_counters ADD PRIMARY KEY (campaign_id);


-- name: key_of_membership
ALTER TABLE {generation}.membership ADD PRIMARY KEY (customer_id, campaign_id);


-- name: membership_by_enrolled_at
-- For a page in the default order, and a cursor's range. The filter columns are included, so that rows are skipped
-- without visiting the table.
CREATE INDEX membership_by_enrolled_at ON {generation}.membership (customer_id, enrolled_at DESC, campaign_id)
INCLUDE (owner_id, deleted)
WHERE enrolled_at IS NOT NULL AND owner_id IS NOT NULL;


-- name: membership_by_campaign
-- For the fan-out of a campaign's keys, which visits the members in order.
CREATE INDEX membership_by_campaign ON {generation}.membership (campaign_id, customer_id);


-- name: campaign_by_text
-- For text search. Every search also scans the list of pending entries, so it is kept short.
CREATE INDEX campaign_by_text ON {generation}.campaign USING gin (
    (name_key || E'\n' || coalesce(goal_key, '') || E'\n' || coalesce(agent_name_key, '')) gin_trgm_ops
) WITH (gin_pending_list_limit = 1024);


-- name: campaign_by_name_prefix
-- This index and the next two serve a customer in many campaigns, by scanning the campaigns in order. A btree entry
-- holds at most 2,704 bytes and a character up to 4, so the index holds the first 600 characters; a query orders by
-- them, then by the whole key.
CREATE INDEX campaign_by_name_prefix ON {generation}.campaign (left(name_key, 600));


-- name: campaign_by_created_at
CREATE INDEX campaign_by_created_at ON {generation}.campaign (created_at);


-- name: campaign_by_created_at_desc
CREATE INDEX campaign_by_created_at_desc ON {generation}.campaign (created_at DESC NULLS LAST);


-- name: key_of_customer_summary
ALTER TABLE {generation}.customer_summary ADD PRIMARY KEY (customer_id, owner_id, status, deleted);


-- name: statistics
-- The planner has no statistics on new tables.
ANALYZE
    {generation}.customer, {generation}.campaign, {generation}.campaign_counters, {generation}.membership,
    {generation}.customer_summary;
