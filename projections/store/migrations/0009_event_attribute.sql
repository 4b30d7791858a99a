-- The attributes of a parked event, whose body may be anything: operators select and group parked events by them.

CREATE FUNCTION control.event_attribute(body bytea, attribute text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    found jsonb;
BEGIN
    found := convert_from(body, 'UTF8')::jsonb;
    RETURN CASE WHEN jsonb_typeof(found -> attribute) = 'string' THEN found ->> attribute END;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN NULL; -- neither UTF-8 nor JSON, or nested too deeply
END
$$;
COMMENT ON FUNCTION control.event_attribute IS
'An attribute of the CloudEvents object in a message body; null if the body is none, or the attribute is no string.';
