-- Sums of a day (UTC, days since 1970) and a kind: a report over a month reads some thousand of these instead of a million
-- rows. The database makes them from the rows itself, in the same transaction, whoever writes: once per statement and in the
-- order of their keys, so that two writers wait for one another and never in a circle.
CREATE TABLE penstock.day_total (
  day        bigint NOT NULL,
  kind       bigint NOT NULL REFERENCES penstock.kind (id),
  requests   bigint NOT NULL,
  unpriced   bigint NOT NULL,
  prompt     bigint NOT NULL,
  completion bigint NOT NULL,
  cost       bigint NOT NULL,
  PRIMARY KEY (day, kind)
);

CREATE INDEX day_total_kind ON penstock.day_total (kind, day);

LOCK TABLE penstock.entry IN SHARE ROW EXCLUSIVE MODE;

INSERT INTO penstock.day_total
SELECT
  floor(started_at / 86400)::bigint, kind, count(*), count(*) FILTER (WHERE cost_nano IS NULL),
  sum(input + cache_read + cache_write + cache_write_1h + audio_input + image_input),
  sum(output + reasoning + audio_output + image_output),
  coalesce(sum(cost_nano), 0)
FROM penstock.entry
GROUP BY 1, 2;

CREATE FUNCTION penstock.add_to_day_total() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO penstock.day_total AS total
  SELECT
    floor(started_at / 86400)::bigint, kind, count(*), count(*) FILTER (WHERE cost_nano IS NULL),
    sum(input + cache_read + cache_write + cache_write_1h + audio_input + image_input),
    sum(output + reasoning + audio_output + image_output),
    coalesce(sum(cost_nano), 0)
  FROM added
  GROUP BY 1, 2
  ORDER BY 1, 2
  ON CONFLICT (day, kind) DO UPDATE SET
    requests = total.requests + excluded.requests, unpriced = total.unpriced + excluded.unpriced,
    prompt = total.prompt + excluded.prompt, completion = total.completion + excluded.completion,
    cost = total.cost + excluded.cost;
  RETURN NULL;
END
$$;

CREATE TRIGGER entry_day_total AFTER INSERT ON penstock.entry
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION penstock.add_to_day_total();
