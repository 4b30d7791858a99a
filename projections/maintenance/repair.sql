-- Expected rows of one customer or one campaign, made in temporary tables with the statements that write a generation:
-- `pg_temp` takes the place of the schema's name. {live} is the generation that is repaired.


-- name: expected_tables
-- In a generation of an earlier release, counters are columns of `campaign`, and `campaign_counters` is a view of it.
CREATE TEMPORARY TABLE customer (LIKE {live}.customer INCLUDING ALL) ON COMMIT DROP;
CREATE TEMPORARY TABLE campaign (LIKE {live}.campaign INCLUDING ALL) ON COMMIT DROP;
ALTER TABLE pg_temp.campaign
DROP COLUMN IF EXISTS card,
DROP COLUMN IF EXISTS counters_version,
DROP COLUMN IF EXISTS contacts_total,
DROP COLUMN IF EXISTS contacts_contacted,
DROP COLUMN IF EXISTS contacts_remaining,
DROP COLUMN IF EXISTS contacts_to_recall,
DROP COLUMN IF EXISTS contacts_failed,
DROP COLUMN IF EXISTS contacts_succeeded,
DROP COLUMN IF EXISTS progress;
CREATE TEMPORARY TABLE campaign_counters (
    LIKE {live}.campaign_counters INCLUDING ALL EXCLUDING INDEXES, PRIMARY KEY (campaign_id)
) ON COMMIT DROP;
CREATE TEMPORARY TABLE membership (LIKE {live}.membership INCLUDING ALL) ON COMMIT DROP;
CREATE TEMPORARY TABLE customer_summary (LIKE {live}.customer_summary INCLUDING ALL) ON COMMIT DROP;


-- name: copy_campaigns
-- For a customer: its campaigns are copied from the live generation, because they are not being repaired.
INSERT INTO pg_temp.campaign (
    campaign_id, definition_version, owner_id, name_key, display_json, status_version, status, deletion_version, deleted
)
SELECT
    campaign_id, definition_version, owner_id, name_key, display_json, status_version, status, deletion_version, deleted
FROM {live}.campaign
WHERE campaign_id IN (SELECT membership.campaign_id FROM pg_temp.membership)
RETURNING campaign_id;


-- name: count_memberships
-- For a campaign: the summaries of all actual and expected members, counted over its expected memberships and the
-- members' other memberships in the live generation.
TRUNCATE pg_temp.customer_summary;
INSERT INTO pg_temp.customer_summary (customer_id, owner_id, status, deleted, memberships)
SELECT customer_id, owner_id, status, deleted, count(*)
FROM (
    SELECT customer_id, owner_id, status, deleted, enrolled_at FROM pg_temp.membership
    UNION ALL
    SELECT customer_id, owner_id, status, deleted, enrolled_at FROM {live}.membership
    WHERE customer_id IN ({members}) AND campaign_id <> {campaign}
) AS counted
WHERE enrolled_at IS NOT NULL AND owner_id IS NOT NULL
GROUP BY customer_id, owner_id, status, deleted;


-- name: members
-- Included: the actual and the expected members of the campaign.
SELECT customer_id FROM {live}.membership WHERE campaign_id = {campaign}
UNION
SELECT customer_id FROM pg_temp.membership
