-- Expected rows of one customer or one campaign, made in temporary tables by the very statements that write a
-- generation: `pg_temp` stands in for its schema. {held} is the generation that is repaired.


-- name: expected_tables
CREATE TEMPORARY TABLE customer (LIKE {held}.customer INCLUDING ALL) ON COMMIT DROP;
CREATE TEMPORARY TABLE campaign (LIKE {held}.campaign INCLUDING ALL) ON COMMIT DROP;
CREATE TEMPORARY TABLE membership (LIKE {held}.membership INCLUDING ALL) ON COMMIT DROP;
CREATE TEMPORARY TABLE customer_summary (LIKE {held}.customer_summary INCLUDING ALL) ON COMMIT DROP;


-- name: borrow_campaigns
-- For a customer: the campaigns it is in are taken as they are held, for they are not what is repaired.
INSERT INTO pg_temp.campaign (
    campaign_id, definition_version, owner_id, name_key, display_json, status_version, status, deletion_version, deleted
)
SELECT
    campaign_id, definition_version, owner_id, name_key, display_json, status_version, status, deletion_version, deleted
FROM {held}.campaign
WHERE campaign_id IN (SELECT membership.campaign_id FROM pg_temp.membership)
RETURNING campaign_id;


-- name: count_members
-- For a campaign: the summaries of all who are in it or should be, counted over its expected memberships and over
-- their other memberships as they are held.
TRUNCATE pg_temp.customer_summary;
INSERT INTO pg_temp.customer_summary (customer_id, owner_id, status, deleted, memberships)
SELECT customer_id, owner_id, status, deleted, count(*)
FROM (
    SELECT customer_id, owner_id, status, deleted, enrolled_at FROM pg_temp.membership
    UNION ALL
    SELECT customer_id, owner_id, status, deleted, enrolled_at FROM {held}.membership
    WHERE customer_id IN ({members}) AND campaign_id <> {campaign}
) AS counted
WHERE enrolled_at IS NOT NULL AND owner_id IS NOT NULL
GROUP BY customer_id, owner_id, status, deleted;


-- name: members
-- Included: who is in the campaign, or should be.
SELECT customer_id FROM {held}.membership WHERE campaign_id = {campaign}
UNION
SELECT customer_id FROM pg_temp.membership
