-- One row per finished request (gateway.state.records.LedgerRow). Amounts are integers of nano-dollars; times are unix
-- seconds; tags and attempts are JSON.
CREATE TABLE ledger (
  seq             INTEGER PRIMARY KEY,
  id              TEXT NOT NULL UNIQUE,
  call_id         TEXT NOT NULL,
  answer_id       TEXT NOT NULL,
  started_at      REAL NOT NULL,
  ended_at        REAL NOT NULL,
  first_token_at  REAL,

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
  end_user        TEXT,
  tags            TEXT NOT NULL,
  session_id      TEXT,
  client_ip       TEXT,
  user_agent      TEXT,

  status          TEXT NOT NULL,
  http_status     INTEGER NOT NULL,
  reason          TEXT NOT NULL,
  error_message   TEXT NOT NULL,
  finish          TEXT NOT NULL,

  input           INTEGER NOT NULL,
  cache_read      INTEGER NOT NULL,
  cache_write     INTEGER NOT NULL,
  cache_write_1h  INTEGER NOT NULL,
  audio_input     INTEGER NOT NULL,
  output          INTEGER NOT NULL,
  reasoning       INTEGER NOT NULL,
  audio_output    INTEGER NOT NULL,
  usage_source    TEXT NOT NULL,

  cost_nano       INTEGER,
  price_source    TEXT NOT NULL,

  attempts        TEXT NOT NULL,
  retries         INTEGER NOT NULL,
  fallbacks       INTEGER NOT NULL,
  cache_hit       INTEGER NOT NULL,
  mock            INTEGER NOT NULL,

  queue_us        INTEGER,
  auth_us         INTEGER,
  connect_us      INTEGER,
  ttfb_us         INTEGER,
  total_us        INTEGER,
  overhead_us     INTEGER
) STRICT;

CREATE INDEX ledger_started_at ON ledger (started_at);
CREATE INDEX ledger_key ON ledger (key_digest, started_at) WHERE key_digest IS NOT NULL;
CREATE INDEX ledger_end_user ON ledger (end_user, started_at) WHERE end_user IS NOT NULL;
