-- The ledger and the keys (gateway.state.records, gateway.state.keys), in a schema of their own. Amounts are integers of
-- nano-dollars; times are unix seconds, or microseconds where the name says so. Text is compared by its code points.
--
-- A row is what repeats (kind) plus what does not (entry); `ledger` shows both as one row with all names.

-- `digest` is that of everything else: by it several processes agree on a kind's id.
CREATE TABLE penstock.kind (
  id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  digest          bytea NOT NULL UNIQUE,
  endpoint        text COLLATE "C" NOT NULL DEFAULT '',
  operation       text COLLATE "C" NOT NULL DEFAULT '',
  client_format   text COLLATE "C" NOT NULL DEFAULT '',
  stream          boolean NOT NULL DEFAULT false,
  provider        text COLLATE "C" NOT NULL DEFAULT '',
  provider_format text COLLATE "C" NOT NULL DEFAULT '',
  model_requested text COLLATE "C" NOT NULL DEFAULT '',
  model_group     text COLLATE "C" NOT NULL DEFAULT '',
  model           text COLLATE "C" NOT NULL DEFAULT '',
  deployment_id   text COLLATE "C" NOT NULL DEFAULT '',
  api_base        text COLLATE "C" NOT NULL DEFAULT '',
  caller_kind     text COLLATE "C" NOT NULL DEFAULT '',
  key_digest      text COLLATE "C",
  key_alias       text COLLATE "C",
  status          text COLLATE "C" NOT NULL DEFAULT '',
  http_status     integer NOT NULL DEFAULT 0,
  reason          text COLLATE "C" NOT NULL DEFAULT '',
  finish          text COLLATE "C" NOT NULL DEFAULT '',
  usage_source    text COLLATE "C" NOT NULL DEFAULT 'none',
  price_source    text COLLATE "C" NOT NULL DEFAULT '',
  retries         integer NOT NULL DEFAULT 0,
  fallbacks       integer NOT NULL DEFAULT 0,
  cache_hit       boolean NOT NULL DEFAULT false,
  mock            boolean NOT NULL DEFAULT false,
  cost_source     text COLLATE "C" NOT NULL DEFAULT 'none',
  service_tier    text COLLATE "C" NOT NULL DEFAULT ''
);

CREATE INDEX kind_key ON penstock.kind (key_digest) WHERE key_digest IS NOT NULL;

-- The ordinary case is that one deployment was asked and answered: answer_ms is how soon. Otherwise tried has all attempts.
CREATE TABLE penstock.entry (
  id              text COLLATE "C" PRIMARY KEY,
  kind            bigint NOT NULL REFERENCES penstock.kind (id),
  started_at      double precision NOT NULL,
  total_us        bigint NOT NULL DEFAULT 0,
  ttfb_us         bigint,
  overhead_us     bigint,
  cost_nano       bigint,
  answer_ms       bigint,
  answer_id       text COLLATE "C" NOT NULL DEFAULT '',
  client_ip       text COLLATE "C",
  user_agent      text COLLATE "C",
  end_user        text COLLATE "C",
  input           bigint NOT NULL DEFAULT 0,
  cache_read      bigint NOT NULL DEFAULT 0,
  cache_write     bigint NOT NULL DEFAULT 0,
  cache_write_1h  bigint NOT NULL DEFAULT 0,
  audio_input     bigint NOT NULL DEFAULT 0,
  image_input     bigint NOT NULL DEFAULT 0,
  output          bigint NOT NULL DEFAULT 0,
  reasoning       bigint NOT NULL DEFAULT 0,
  audio_output    bigint NOT NULL DEFAULT 0,
  image_output    bigint NOT NULL DEFAULT 0,
  images          bigint NOT NULL DEFAULT 0,
  milliseconds    bigint NOT NULL DEFAULT 0,
  characters      bigint NOT NULL DEFAULT 0,
  searches        bigint NOT NULL DEFAULT 0,
  call_id         text COLLATE "C" NOT NULL DEFAULT '',
  session_id      text COLLATE "C",
  error_message   text COLLATE "C" NOT NULL DEFAULT '',
  tags            jsonb NOT NULL DEFAULT '[]',
  tried           jsonb NOT NULL DEFAULT '[]'
);

CREATE INDEX entry_started_at ON penstock.entry (started_at, id);
CREATE INDEX entry_kind ON penstock.entry (kind, started_at);
CREATE INDEX entry_end_user ON penstock.entry (end_user, started_at) WHERE end_user IS NOT NULL;
-- For whoever asks by a time of day and not by seconds: the views of dashboards.
CREATE INDEX entry_start_time ON penstock.entry ((to_timestamp(started_at) AT TIME ZONE 'UTC'));

CREATE VIEW penstock.ledger AS
SELECT
  entry.id, started_at, started_at + total_us / 1e6::double precision AS ended_at,
  started_at + ttfb_us / 1e6::double precision AS first_token_at,
  total_us, ttfb_us, overhead_us, cost_nano, answer_id, client_ip, user_agent, call_id, end_user, session_id, tags,
  error_message,
  endpoint, operation, client_format, stream, provider, provider_format, model_requested, model_group, model,
  deployment_id, api_base, caller_kind, key_digest, key_alias, status, http_status, reason, finish, usage_source,
  price_source, retries, fallbacks, cache_hit, mock, cost_source, service_tier,
  input, cache_read, cache_write, cache_write_1h, audio_input, image_input, output, reasoning, audio_output, image_output,
  images, milliseconds, characters, searches,
  CASE WHEN answer_ms IS NULL THEN tried ELSE
    jsonb_build_array(jsonb_build_object(
      'deployment_id', deployment_id, 'model', model, 'provider', provider, 'status', http_status, 'reason', '',
      'ms', answer_ms, 'possible_duplicate', false
    ))
  END AS attempts
FROM penstock.entry JOIN penstock.kind ON kind.id = entry.kind;

-- Virtual keys, by the digest of their text. `content` is the whole key; what is searched for has columns beside it.
-- Deleted ones stay: whoever presents one is to be refused, and its rows keep a name.
CREATE TABLE penstock.virtual_key (
  digest     text COLLATE "C" PRIMARY KEY,
  version    bigint NOT NULL,
  alias      text COLLATE "C",
  created_at double precision NOT NULL,
  deleted_at double precision,
  content    jsonb NOT NULL
);

CREATE UNIQUE INDEX virtual_key_alias ON penstock.virtual_key (alias) WHERE alias IS NOT NULL AND deleted_at IS NULL;
