-- The index that orders campaigns by name held the whole search key, and a btree entry ends at 2,704 bytes: a longer name
-- was refused by the tables, and with it every event behind it. The new index holds a prefix (see generation.sql).

DO $$
DECLARE
    existing record;
BEGIN
    -- Only where the old index is: a generation that a rebuild still fills has no index yet, and gets the new one later.
    FOR existing IN
        SELECT pg_namespace.nspname AS name
        FROM control.generation
        INNER JOIN pg_namespace ON pg_namespace.nspname = generation.generation
        INNER JOIN pg_class ON pg_class.relnamespace = pg_namespace.oid
        WHERE pg_class.relname = 'campaign_by_name' AND pg_class.relkind = 'i'
        ORDER BY pg_namespace.nspname
    LOOP
        EXECUTE format('DROP INDEX %I.campaign_by_name', existing.name);
        EXECUTE format(
            'CREATE INDEX IF NOT EXISTS campaign_by_name_prefix ON %I.campaign (left(name_key, 600))', existing.name
        );
    END LOOP;
END
$$;
