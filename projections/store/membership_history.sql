-- Reads of one membership's registers, and of what is set aside. {generation} is the schema of the live generation.


-- name: registers
-- One row, whoever asks: the registers of a customer, a campaign and the membership, in one snapshot with the position.
-- $3 is the owner to whom the caller is restricted, null for none: another owner's campaign is not read, and neither is
-- the membership of another owner's customer, so a foreign one costs what an unknown one does.
SELECT
    live.generation AS live_generation,
    checkpoint.position,
    checkpoint.message_time_ns,
    checkpoint.stream_created,
    checkpoint.epoch,
    customer.customer_id IS NOT NULL AS customer_exists,
    customer.owner_id::text AS customer_owner_id,
    coalesce(customer.version, 0) AS customer_version,
    coalesce(customer.deleted, false) AS customer_deleted,
    coalesce(campaign.status_version > 0 OR campaign.deletion_version > 0, false) OR membership.campaign_id IS NOT NULL
        AS campaign_exists,
    campaign.owner_id::text AS campaign_owner_id,
    coalesce(campaign.definition_version, 0) AS definition_version,
    {campaign_name} AS campaign_name,
    coalesce(campaign.deletion_version, 0) AS deletion_version,
    coalesce(campaign.deleted, false) AS campaign_deleted,
    coalesce(membership.enrolment_version, 0) AS enrolment_version,
    membership.enrolled_at,
    coalesce(membership.presence_version, 0) AS presence_version,
    coalesce(membership.present, false) AS present,
    {parked_reason} AS parked
FROM control.live
CROSS JOIN control.checkpoint
LEFT JOIN {generation}.customer ON customer.customer_id = $1::uuid
LEFT JOIN {generation}.campaign
    ON campaign.campaign_id = $2::uuid
    AND ($3::uuid IS NULL OR campaign.owner_id = $3::uuid)
LEFT JOIN {generation}.membership
    ON membership.customer_id = $1::uuid
    AND membership.campaign_id = $2::uuid
    AND ($3::uuid IS NULL OR customer.owner_id = $3::uuid)
WHERE checkpoint.generation = '{generation}';


-- name: campaign_name
-- The name as it was published; the columns hold only its search key.
('{' || campaign.display_json || '}')::json ->> 'name'


-- name: parked_reason
-- Why the event at the position $4, if one is given, is not applied.
CASE
    WHEN $4::bigint IS NOT NULL THEN coalesce(
        (SELECT reason FROM {generation}.parked_event WHERE parked_event.position = $4),
        (SELECT 'discarded' FROM control.discarded_event WHERE discarded_event.position = $4)
    )
END


-- name: set_aside
-- Which of these positions are parked or discarded.
SELECT position, reason, detail FROM {generation}.parked_event WHERE position = any($1::bigint[])
UNION ALL
SELECT position, 'discarded', 'an operator has decided that it is not applied'
FROM control.discarded_event WHERE position = any($1::bigint[]);


-- name: customer_exists
SELECT FROM {generation}.customer WHERE customer_id = $1::uuid;


-- name: memberships
-- The registers of a customer's memberships after a campaign, in order of campaign.
SELECT
    membership.campaign_id::text AS campaign_id,
    customer.version AS customer_version,
    customer.deleted AS customer_deleted,
    coalesce(campaign.definition_version, 0) AS definition_version,
    {campaign_name} AS campaign_name,
    coalesce(campaign.deletion_version, 0) AS deletion_version,
    coalesce(campaign.deleted, false) AS campaign_deleted,
    membership.enrolment_version,
    membership.enrolled_at,
    membership.presence_version,
    membership.present
FROM {generation}.membership
INNER JOIN {generation}.customer USING (customer_id)
LEFT JOIN {generation}.campaign USING (campaign_id)
WHERE membership.customer_id = $1::uuid AND membership.campaign_id > $2::uuid
ORDER BY membership.campaign_id
LIMIT $3;
