-- One customer or one campaign as the live generation holds it, for operators. {generation} is its schema.


-- name: customer
SELECT owner_id::text AS owner_id, deleted, version FROM {generation}.customer WHERE customer_id = $1::uuid;


-- name: campaign
-- One row, whether the campaign is known or not.
SELECT
    campaign.campaign_id IS NOT NULL AS known,
    coalesce(campaign.definition_version, 0) > 0 AS defined,
    campaign.owner_id::text AS owner_id,
    CASE WHEN campaign.display_json IS NOT NULL THEN ('{' || campaign.display_json || '}')::json ->> 'name' END AS name,
    CASE campaign.status WHEN 0 THEN 'draft' WHEN 1 THEN 'running' WHEN 2 THEN 'paused' WHEN 3 THEN 'done' END AS status,
    coalesce(campaign.deleted, false) AS deleted,
    campaign_counters.version AS counters_version,
    campaign_counters.contacts_total,
    campaign_counters.contacts_contacted,
    campaign_counters.contacts_remaining,
    campaign_counters.contacts_to_recall,
    campaign_counters.contacts_failed,
    campaign_counters.contacts_succeeded,
    campaign_counters.progress,
    (SELECT count(*) FROM {generation}.membership WHERE membership.campaign_id = wanted.campaign_id) AS members,
    fan_out.resumes_at::text AS resumes_at
FROM (SELECT $1::uuid AS campaign_id) AS wanted
LEFT JOIN {generation}.campaign USING (campaign_id)
LEFT JOIN {generation}.campaign_counters USING (campaign_id)
LEFT JOIN control.fan_out ON fan_out.generation = '{generation}' AND fan_out.campaign_id = wanted.campaign_id;


-- name: members
-- The customers in a campaign after one of them, in the order of their ids.
SELECT customer_id::text AS customer_id, enrolled_at, present
FROM {generation}.membership
WHERE campaign_id = $1::uuid AND customer_id > $2::uuid
ORDER BY customer_id
LIMIT $3;
