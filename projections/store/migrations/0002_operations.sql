-- What operators do: generations beside the live one, jobs that survive a kill, and a record of every deed.

ALTER TABLE control.generation
ADD COLUMN state text NOT NULL DEFAULT 'following'
CONSTRAINT generation_state CHECK (state IN ('filling', 'following', 'broken', 'dropped')),
ADD COLUMN follows_until timestamptz;
COMMENT ON COLUMN control.generation.state IS
'filling: a job writes it; following: the projector applies every event to it; broken: it once followed, until an event
could not be written to it; dropped: its schema is gone. A name is never used again, for a process may still hold
statements prepared for it.';
COMMENT ON COLUMN control.generation.follows_until IS
'When the projector drops it, unless it is live then. Null: not by itself.';

ALTER TABLE control.live ADD COLUMN previous text;
COMMENT ON COLUMN control.live.previous IS 'The generation a rollback points back at.';

CREATE TABLE control.job (
    job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('rebuild', 'verify', 'erase')),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'failed', 'cancelled')),
    phase text NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    eta_s double precision,
    generation text REFERENCES control.generation,
    release text NOT NULL,
    erased_customer uuid,
    cancel_requested boolean NOT NULL DEFAULT false,
    started_by text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    outcome text,
    CHECK ((state = 'open') = (ended_at IS NULL)),
    CHECK (state = 'open' OR erased_customer IS NULL)
);
CREATE UNIQUE INDEX job_one_open_of_a_kind ON control.job (kind) WHERE state = 'open';
COMMENT ON TABLE control.job IS
'Long work, one row each, kept as history. An open job whose process died is resumed by the same command.';
COMMENT ON COLUMN control.job.release IS
'What the rows were derived by: a digest of the fold. A job is not finished by another fold than it was begun with.';
COMMENT ON COLUMN control.job.erased_customer IS
'Whom an erasure concerns, known only while it is under way.';

CREATE TABLE control.audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    position bigint,
    detail text NOT NULL
);
CREATE INDEX audit_by_position ON control.audit (position) WHERE position IS NOT NULL;
COMMENT ON TABLE control.audit IS
'Every deed of an operator that changed what readers see: switches, repairs, retries, discards, erasures.';

CREATE TABLE control.discarded_event (
    position bigint PRIMARY KEY,
    reason text NOT NULL,
    discarded_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE control.discarded_event IS
'Positions an operator decided not to apply: a rebuild does not park them again.';

CREATE TABLE control.erasure (
    erasure_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id bigint NOT NULL REFERENCES control.job,
    stream_created text NOT NULL,
    missing_before bigint NOT NULL,
    messages bigint,
    erased_at timestamptz
);
COMMENT ON TABLE control.erasure IS
'How many messages an erasure took out of which stream, and nothing about whom: the rebuild''s gate compares the sum
with what the stream lacks. messages is null while the erasure is under way.';
