-- What the console shows that the API cannot read itself: the stream, and how the lag has changed.

CREATE TABLE control.sample (
    at timestamptz PRIMARY KEY DEFAULT now(),
    generation text NOT NULL,
    position bigint NOT NULL,
    parked bigint NOT NULL,
    fan_outs bigint NOT NULL,
    leader boolean NOT NULL,
    stream_position bigint,
    lag_events bigint,
    lag_s double precision,
    missing_events bigint,
    problem text
);
COMMENT ON TABLE control.sample IS
'The read model beside the stream, every 5 s for the last hour; written by `membership jobs run`.';
COMMENT ON COLUMN control.sample.stream_position IS
'The last position of the stream. This and the columns after it are null if the broker did not answer.';
COMMENT ON COLUMN control.sample.problem IS
'A sentence for an operator: why the values of the stream are unknown, or what is wrong with the stream.';

CREATE TABLE control.stream_report (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    at timestamptz NOT NULL DEFAULT now(),
    report text NOT NULL
);
COMMENT ON TABLE control.stream_report IS
'The stream''s size, settings and last event by source, as JSON: of the last time that the broker answered.';
