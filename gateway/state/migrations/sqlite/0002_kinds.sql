-- A row is what repeats (kind) plus what does not (entry); gateway.state.records tells why. `ledger` shows both as one row
-- with all names, as the table before did. Amounts are integers of nano-dollars; times are unix seconds, or microseconds
-- where the name says so; tags and attempts are JSON. Ids rise with time, so that entries are appended where the last were.

-- `content` is everything else as JSON: by it several processes agree on a kind's id.
CREATE TABLE kind (
  id              INTEGER PRIMARY KEY,
  content         TEXT NOT NULL UNIQUE,
  endpoint        TEXT NOT NULL,
  operation       TEXT NOT NULL,
  client_format   TEXT NOT NULL,
  stream          INTEGER NOT NULL,
  provider        TEXT NOT NULL,
  provider_format TEXT NOT NULL,
  model_requested TEXT NOT NULL,
  model_group     TEXT NOT NULL,
  model           TEXT NOT NULL,
  deployment_id   TEXT NOT NULL,
  api_base        TEXT NOT NULL,
  caller_kind     TEXT NOT NULL,
  key_digest      TEXT,
  key_alias       TEXT,
  status          TEXT NOT NULL,
  http_status     INTEGER NOT NULL,
  reason          TEXT NOT NULL,
  finish          TEXT NOT NULL,
  usage_source    TEXT NOT NULL,
  price_source    TEXT NOT NULL,
  retries         INTEGER NOT NULL,
  fallbacks       INTEGER NOT NULL,
  cache_hit       INTEGER NOT NULL,
  mock            INTEGER NOT NULL
) STRICT;

CREATE INDEX kind_key ON kind (key_digest) WHERE key_digest IS NOT NULL;

-- The ordinary case is that one deployment was asked and answered: answer_ms is how soon. Otherwise tried has all attempts.
CREATE TABLE entry (
  id              TEXT PRIMARY KEY NOT NULL,
  kind            INTEGER NOT NULL REFERENCES kind (id),
  started_at      REAL NOT NULL,
  total_us        INTEGER NOT NULL,
  ttfb_us         INTEGER,
  overhead_us     INTEGER,
  cost_nano       INTEGER,
  answer_ms       INTEGER,
  answer_id       TEXT NOT NULL,
  client_ip       TEXT,
  user_agent      TEXT,
  end_user        TEXT,
  input           INTEGER NOT NULL,
  cache_read      INTEGER NOT NULL,
  output          INTEGER NOT NULL,
  reasoning       INTEGER NOT NULL,
  cache_write     INTEGER NOT NULL DEFAULT 0,
  cache_write_1h  INTEGER NOT NULL DEFAULT 0,
  audio_input     INTEGER NOT NULL DEFAULT 0,
  audio_output    INTEGER NOT NULL DEFAULT 0,
  call_id         TEXT NOT NULL DEFAULT '',
  session_id      TEXT,
  error_message   TEXT NOT NULL DEFAULT '',
  tags            TEXT NOT NULL DEFAULT '[]',
  tried           TEXT NOT NULL DEFAULT '[]'
) STRICT, WITHOUT ROWID;

CREATE INDEX entry_started_at ON entry (started_at);
CREATE INDEX entry_kind ON entry (kind, started_at);
CREATE INDEX entry_end_user ON entry (end_user, started_at) WHERE end_user IS NOT NULL;

-- The rows of the table before.
INSERT INTO kind (
  content,
  endpoint, operation, client_format, stream, provider, provider_format, model_requested, model_group, model,
  deployment_id, api_base, caller_kind, key_digest, key_alias, status, http_status, reason, finish, usage_source,
  price_source, retries, fallbacks, cache_hit, mock
)
SELECT DISTINCT
  json_array(
    endpoint, operation, client_format, stream, provider, provider_format, model_requested, model_group, model,
    deployment_id, api_base, caller_kind, key_digest, key_alias, status, http_status, reason, finish, usage_source,
    price_source, retries, fallbacks, cache_hit, mock
  ),
  endpoint, operation, client_format, stream, provider, provider_format, model_requested, model_group, model,
  deployment_id, api_base, caller_kind, key_digest, key_alias, status, http_status, reason, finish, usage_source,
  price_source, retries, fallbacks, cache_hit, mock
FROM ledger;

INSERT INTO entry
SELECT
  old.id, kind.id, old.started_at,
  coalesce(total_us, CAST(round((ended_at - old.started_at) * 1e6) AS INTEGER)), ttfb_us, overhead_us, cost_nano,
  NULL, answer_id, client_ip, user_agent, end_user,
  input, cache_read, output, reasoning, cache_write, cache_write_1h, audio_input, audio_output,
  iif(call_id = old.id, '', call_id), session_id, error_message, tags, attempts
FROM ledger AS old
JOIN kind ON content = json_array(
  old.endpoint, old.operation, old.client_format, old.stream, old.provider, old.provider_format, old.model_requested,
  old.model_group, old.model, old.deployment_id, old.api_base, old.caller_kind, old.key_digest, old.key_alias,
  old.status, old.http_status, old.reason, old.finish, old.usage_source, old.price_source, old.retries,
  old.fallbacks, old.cache_hit, old.mock
)
ORDER BY old.id;

DROP TABLE ledger;

CREATE VIEW ledger AS
SELECT
  entry.id, started_at, started_at + total_us / 1e6 AS ended_at, started_at + ttfb_us / 1e6 AS first_token_at,
  total_us, ttfb_us, overhead_us, cost_nano, answer_id, client_ip, user_agent, call_id, end_user, session_id, tags,
  error_message,
  endpoint, operation, client_format, stream, provider, provider_format, model_requested, model_group, model,
  deployment_id, api_base, caller_kind, key_digest, key_alias, status, http_status, reason, finish, usage_source,
  price_source, retries, fallbacks, cache_hit, mock,
  input, cache_read, cache_write, cache_write_1h, audio_input, output, reasoning, audio_output,
  iif(
    answer_ms IS NULL,
    tried,
    json_array(json_object(
      'deployment_id', deployment_id, 'model', model, 'provider', provider, 'status', http_status, 'reason', '',
      'ms', answer_ms, 'possible_duplicate', json('false')
    ))
  ) AS attempts
FROM entry JOIN kind ON kind.id = entry.kind;
