-- Plans of operators (`/ops/plans`), the process that executes them, and what a comparison found.
-- All in new tables: the release that still runs reads whole rows of control.job.

CREATE TABLE control.plan (
    plan_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    action text NOT NULL,
    parameters jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('planning', 'ready', 'queued', 'running', 'done', 'failed')),
    count bigint CHECK (count >= 0),
    unit text,
    fingerprint text,
    positions bigint [],
    sample jsonb NOT NULL DEFAULT '[]',
    sentence text,
    details jsonb NOT NULL DEFAULT '[]',
    confirm_word text,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    reason text,
    run_by text,
    run_at timestamptz,
    started_at timestamptz,
    epoch bigint,
    done bigint NOT NULL DEFAULT 0,
    job_id bigint REFERENCES control.job,
    outcome text,
    outcome_code text,
    ended_at timestamptz,
    CHECK (state IN ('planning', 'failed') OR (count IS NOT NULL AND sentence IS NOT NULL AND fingerprint IS NOT NULL)),
    CHECK (state IN ('planning', 'ready', 'failed') OR (reason IS NOT NULL AND run_by IS NOT NULL AND run_at IS NOT NULL)),
    CHECK ((state IN ('done', 'failed')) = (ended_at IS NOT NULL))
);
CREATE INDEX plan_open ON control.plan (number) WHERE state IN ('planning', 'queued', 'running');
COMMENT ON TABLE control.plan IS
'An action that an operator has been shown and may run, once. Kept as history; an erasure removes what names its customer.';
COMMENT ON COLUMN control.plan.fingerprint IS
'A digest of what the action acts on. A plan is not run if the digest has changed since.';
COMMENT ON COLUMN control.plan.positions IS
'Of actions on parked events: exactly the events that were counted. Null when the plan has ended.';
COMMENT ON COLUMN control.plan.epoch IS
'The epoch of the runner that executes the plan: another one continues it under its own, and the former writes nothing.';
COMMENT ON COLUMN control.plan.done IS 'How many of `positions` are done; changes in the transaction that does them.';

CREATE TABLE control.runner (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    name text NOT NULL,
    epoch bigint NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    ended_at timestamptz
);
COMMENT ON TABLE control.runner IS
'The process that executes plans (`membership jobs run`), and when it last reported.';

CREATE TABLE control.job_review (
    job_id bigint PRIMARY KEY REFERENCES control.job,
    report jsonb NOT NULL,
    reported_at timestamptz NOT NULL DEFAULT now(),
    awaits_until timestamptz,
    decision text CHECK (decision IN ('approve', 'refuse')),
    decided_by text,
    decided_at timestamptz,
    CHECK ((decision IS NULL) = (decided_by IS NULL) AND (decision IS NULL) = (decided_at IS NULL))
);
COMMENT ON TABLE control.job_review IS
'What the comparison of a rebuild or verification found, and the decision of an operator about it.';
COMMENT ON COLUMN control.job_review.awaits_until IS
'Until when the job waits for a decision. Null: it does not wait.';
