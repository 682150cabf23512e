-- Sums of a day (UTC, days since 1970) and a kind: a report over a month reads some thousand of these instead of a million
-- rows. They are made from the rows by the file itself, in the same transaction, whoever writes, an older version too.
CREATE TABLE day_total (
  day        INTEGER NOT NULL,
  kind       INTEGER NOT NULL REFERENCES kind (id),
  requests   INTEGER NOT NULL,
  unpriced   INTEGER NOT NULL,
  prompt     INTEGER NOT NULL,
  completion INTEGER NOT NULL,
  cost       INTEGER NOT NULL,
  PRIMARY KEY (day, kind)
) STRICT, WITHOUT ROWID;

CREATE INDEX day_total_kind ON day_total (kind, day);

INSERT INTO day_total
SELECT
  CAST(started_at AS INTEGER) / 86400, kind, count(*), sum(cost_nano IS NULL),
  sum(input + cache_read + cache_write + cache_write_1h + audio_input + image_input),
  sum(output + reasoning + audio_output + image_output),
  coalesce(sum(cost_nano), 0)
FROM entry
GROUP BY 1, 2;

CREATE TRIGGER entry_day_total AFTER INSERT ON entry
BEGIN
  INSERT INTO day_total VALUES (
    CAST(new.started_at AS INTEGER) / 86400, new.kind, 1, new.cost_nano IS NULL,
    new.input + new.cache_read + new.cache_write + new.cache_write_1h + new.audio_input + new.image_input,
    new.output + new.reasoning + new.audio_output + new.image_output,
    coalesce(new.cost_nano, 0)
  )
  ON CONFLICT (day, kind) DO UPDATE SET
    requests = requests + 1, unpriced = unpriced + excluded.unpriced, prompt = prompt + excluded.prompt,
    completion = completion + excluded.completion, cost = cost + excluded.cost;
END;
