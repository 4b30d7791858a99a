-- The control schema: what outlives every generation of the read model, and says which one is live.

CREATE SCHEMA control;

CREATE TABLE control.generation (
    generation text PRIMARY KEY CHECK (generation ~ '^g[1-9][0-9]*$'),
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE control.generation IS
'One complete copy of the read model each, in the schema of that name. Disposable: the stream is the truth.';

CREATE TABLE control.live (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation text NOT NULL REFERENCES control.generation,
    since timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE control.live IS
'The pointer: the generation that reads are answered from. Changing this one row is the whole of a switch.';

CREATE TABLE control.checkpoint (
    generation text PRIMARY KEY REFERENCES control.generation ON DELETE CASCADE,
    position bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    message_time_ns bigint,
    stream_created text,
    epoch bigint NOT NULL DEFAULT 0,
    applied_at timestamptz,
    caught_up_at timestamptz,
    CHECK ((position = 0) = (message_time_ns IS NULL)),
    CHECK (position = 0 OR stream_created IS NOT NULL)
);
COMMENT ON COLUMN control.checkpoint.position IS
'The last stream sequence whose event is in the rows; changes in the transaction that writes them, never alone.';
COMMENT ON COLUMN control.checkpoint.message_time_ns IS
'The broker''s time of that message, nanoseconds since 1970: a stream that went back reuses sequences, not times.';
COMMENT ON COLUMN control.checkpoint.stream_created IS
'When the stream was created, as the broker writes it: an equal name with another creation time is another stream.';
COMMENT ON COLUMN control.checkpoint.epoch IS
'Raised by every projector that takes over; a projector commits only under the epoch it raised.';
COMMENT ON COLUMN control.checkpoint.caught_up_at IS
'When the generation first reached the end of the stream; before, it must not be called ready.';

CREATE TABLE control.api_key (
    key_id text PRIMARY KEY,
    key_sha256 bytea NOT NULL CHECK (octet_length(key_sha256) = 32),
    user_id uuid NOT NULL,
    is_admin boolean NOT NULL,
    label text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
COMMENT ON TABLE control.api_key IS
'Credentials for servers. The key itself is shown once, at creation, and kept nowhere.';

CREATE TABLE control.signing_key (
    purpose text PRIMARY KEY,
    key bytea NOT NULL CHECK (octet_length(key) = 32)
);
COMMENT ON TABLE control.signing_key IS
'Keys all API processes share without being configured: paging cursors are signed with the one of purpose `cursor`.';
