-- Beside the generations: what is left of fan-outs, and what texts are searched with.

CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE TABLE control.fan_out (
    generation text NOT NULL REFERENCES control.generation ON DELETE CASCADE,
    campaign_id uuid NOT NULL,
    resumes_at uuid NOT NULL,
    turn bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (generation, campaign_id)
);
COMMENT ON TABLE control.fan_out IS
'Usually empty. Who reads a customer of such a campaign takes its keys from the campaign itself, so answers are exact.';
COMMENT ON COLUMN control.fan_out.resumes_at IS
'The customer to go on at: all members before it carry the campaign''s keys. A newer change begins again at the first.';
COMMENT ON COLUMN control.fan_out.turn IS
'First come, first served.';
