-- What is billed beside words: tokens of pictures, and what is no token (`milliseconds` is sound that went in). `cost_source`
-- says where a cost comes from: usage times `price`, or the `provider`'s own bill. Costs until now were all of the first kind.
ALTER TABLE entry ADD COLUMN image_input INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN image_output INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN images INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN milliseconds INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN characters INTEGER NOT NULL DEFAULT 0;
ALTER TABLE entry ADD COLUMN searches INTEGER NOT NULL DEFAULT 0;

ALTER TABLE kind ADD COLUMN cost_source TEXT NOT NULL DEFAULT 'none';
ALTER TABLE kind ADD COLUMN service_tier TEXT NOT NULL DEFAULT '';

UPDATE kind SET cost_source = 'price'
WHERE usage_source <> 'none' AND EXISTS (SELECT 1 FROM entry WHERE kind = kind.id AND cost_nano IS NOT NULL);

-- As the gateway writes it: all columns in their order.
UPDATE kind SET content = json_insert(content, '$[#]', cost_source, '$[#]', service_tier);

DROP VIEW ledger;

CREATE VIEW ledger AS
SELECT
  entry.id, started_at, started_at + total_us / 1e6 AS ended_at, started_at + ttfb_us / 1e6 AS first_token_at,
  total_us, ttfb_us, overhead_us, cost_nano, answer_id, client_ip, user_agent, call_id, end_user, session_id, tags,
  error_message,
  endpoint, operation, client_format, stream, provider, provider_format, model_requested, model_group, model,
  deployment_id, api_base, caller_kind, key_digest, key_alias, status, http_status, reason, finish, usage_source,
  price_source, retries, fallbacks, cache_hit, mock, cost_source, service_tier,
  input, cache_read, cache_write, cache_write_1h, audio_input, image_input, output, reasoning, audio_output, image_output,
  images, milliseconds, characters, searches,
  iif(
    answer_ms IS NULL,
    tried,
    json_array(json_object(
      'deployment_id', deployment_id, 'model', model, 'provider', provider, 'status', http_status, 'reason', '',
      'ms', answer_ms, 'possible_duplicate', json('false')
    ))
  ) AS attempts
FROM entry JOIN kind ON kind.id = entry.kind;
