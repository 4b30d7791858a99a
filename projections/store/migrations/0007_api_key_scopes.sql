-- Scopes, expiry, rotation and last use of API keys. Keys made before this migration may read, and do not expire.

ALTER TABLE control.api_key
ADD COLUMN scopes text [] NOT NULL DEFAULT '{read}'
CONSTRAINT api_key_scopes CHECK (scopes <@ '{read,operate}' AND cardinality(scopes) > 0),
ADD COLUMN expires_at timestamptz,
ADD COLUMN last_used_at timestamptz,
ADD COLUMN replaced_by text;
COMMENT ON COLUMN control.api_key.scopes IS
'read: GET a customer''s campaigns; operate: the console and what is behind it.';
COMMENT ON COLUMN control.api_key.expires_at IS 'From then on the key is refused. Null: never.';
COMMENT ON COLUMN control.api_key.last_used_at IS
'The hour in which the key was last accepted, written by the API up to a minute later. Null: never since this migration.';
COMMENT ON COLUMN control.api_key.replaced_by IS 'The id of the key that a rotation made in its place. Rows are never deleted, so it needs no foreign key.';
