-- For a consumer of its own on PostgreSQL 12 or newer.

CREATE TABLE IF NOT EXISTS records (
  device  TEXT    NOT NULL,
  epoch   BIGINT  NOT NULL,
  seq     BIGINT  NOT NULL,
  kind    TEXT    NOT NULL,           -- vote, inference, event or external
  time    TIMESTAMPTZ,                -- NULL while the clock of the device was unknown
  synced  BOOLEAN,
  boot    TEXT,
  mono_ms BIGINT,
  body    JSONB   NOT NULL,
  PRIMARY KEY (device, epoch, seq)
);

-- A whole batch (its JSON as one parameter) in one statement; repeats change nothing. Use it as it stands:
--   SELECT quorate_enter($1::jsonb);   gives the number of new records
CREATE OR REPLACE FUNCTION quorate_enter(batch JSONB) RETURNS BIGINT LANGUAGE SQL AS $$
  WITH entered AS (
    INSERT INTO records (device, epoch, seq, kind, time, synced, boot, mono_ms, body)
    SELECT batch->>'device', (batch->>'epoch')::BIGINT, (record->>'seq')::BIGINT, record->>'kind',
           (record->>'time')::TIMESTAMPTZ, (record->>'synced')::BOOLEAN, record->>'boot', (record->>'mono_ms')::BIGINT,
           record->'body'
    FROM jsonb_array_elements(batch->'records') AS record
    ON CONFLICT (device, epoch, seq) DO NOTHING
    RETURNING 1)
  SELECT count(*) FROM entered
$$;
