-- Messages that the stream has lost for another reason than an erasure, and that an operator has accepted as lost.

CREATE TABLE control.acknowledged_loss (
    acknowledged_loss_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_created text NOT NULL,
    messages bigint NOT NULL CHECK (messages > 0),
    messages_in_all bigint NOT NULL CHECK (messages_in_all >= messages),
    reason text NOT NULL,
    acknowledged_by text NOT NULL,
    acknowledged_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE control.acknowledged_loss IS
'Losses of a stream that an operator has acknowledged. The same count is kept in the metadata of the stream itself, for
databases that are made later.';
COMMENT ON COLUMN control.acknowledged_loss.messages_in_all IS
'How many lost messages of this stream are acknowledged together with this row: the largest one counts.';
