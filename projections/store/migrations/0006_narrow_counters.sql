-- Counters of campaigns are now in a table of their own (see generation.sql). Generations made before keep them in
-- `campaign`: this view gives them the new shape until a rebuild replaces them. It is updatable, so counters are written
-- through it, and the release that still runs is not affected.

DO $$
DECLARE
    existing record;
BEGIN
    FOR existing IN
        SELECT pg_namespace.nspname AS name
        FROM control.generation
        INNER JOIN pg_namespace ON pg_namespace.nspname = generation.generation
        INNER JOIN pg_class ON pg_class.relnamespace = pg_namespace.oid
        INNER JOIN pg_attribute ON pg_attribute.attrelid = pg_class.oid
        WHERE pg_class.relname = 'campaign' AND pg_attribute.attname = 'counters_version'
        ORDER BY pg_namespace.nspname
    LOOP
        EXECUTE format(
            'CREATE VIEW %1$I.campaign_counters AS '
            'SELECT campaign_id, counters_version AS version, contacts_total, contacts_contacted, contacts_remaining, '
            'contacts_to_recall, contacts_failed, contacts_succeeded, progress '
            'FROM %1$I.campaign WHERE counters_version > 0',
            existing.name
        );
    END LOOP;
END
$$;
