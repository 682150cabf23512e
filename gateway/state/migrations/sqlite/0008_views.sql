-- The ledger and the keys as LiteLLM's tables show them, by the names and columns that they have in Postgres too: whoever reads a
-- copy of the file can ask the same questions. What this gateway does not know is null, empty or zero there. Times are text in
-- UTC, lists and objects are JSON; dollars are floats, as theirs are: whoever adds up money takes `cost_nano` from `ledger`.
CREATE VIEW "LiteLLM_SpendLogs" AS
SELECT
  entry.id AS request_id,
  CASE operation
    WHEN 'chat' THEN iif(client_format = 'anthropic', 'anthropic_messages', 'acompletion')
    WHEN 'completions' THEN 'atext_completion'
    WHEN 'embeddings' THEN 'aembedding'
    WHEN 'count_tokens' THEN 'acount_tokens'
    WHEN 'rerank' THEN 'arerank'
    WHEN 'images' THEN 'aimage_generation'
    WHEN 'speech' THEN 'aspeech'
    WHEN 'transcriptions' THEN 'atranscription'
    WHEN 'translations' THEN 'atranscription'
    ELSE operation
  END AS call_type,
  coalesce(key_digest, '') AS api_key,
  coalesce(cost_nano, 0) / 1e9 AS spend,
  input + cache_read + cache_write + cache_write_1h + audio_input + image_input
    + output + reasoning + audio_output + image_output AS total_tokens,
  input + cache_read + cache_write + cache_write_1h + audio_input + image_input AS prompt_tokens,
  output + reasoning + audio_output + image_output AS completion_tokens,
  strftime('%Y-%m-%d %H:%M:%f', started_at, 'unixepoch') AS "startTime",
  strftime('%Y-%m-%d %H:%M:%f', started_at + total_us / 1e6, 'unixepoch') AS "endTime",
  total_us / 1000 AS request_duration_ms,
  strftime('%Y-%m-%d %H:%M:%f', started_at + ttfb_us / 1e6, 'unixepoch') AS "completionStartTime",
  coalesce(nullif(model, ''), model_requested) AS model,
  deployment_id AS model_id,
  model_group,
  provider AS custom_llm_provider,
  api_base,
  coalesce(json_extract(CAST(virtual_key.content AS TEXT), '$.user_id'), end_user, '') AS "user",
  json_object(
    'status', iif(status = 'success', 'success', 'failure'),
    'user_api_key', key_digest,
    'user_api_key_alias', key_alias,
    'user_api_key_user_id', json_extract(CAST(virtual_key.content AS TEXT), '$.user_id'),
    'user_api_key_team_id', json_extract(CAST(virtual_key.content AS TEXT), '$.team_id'),
    'user_api_key_end_user_id', end_user,
    'user_api_key_request_route', endpoint,
    'requester_ip_address', client_ip,
    'user_agent', user_agent,
    'attempted_retries', retries,
    'attempted_fallbacks', fallbacks,
    'original_model_group', model_requested,
    'litellm_overhead_time_ms', overhead_us / 1000.0,
    'additional_usage_values', json_object(
      'cache_read_input_tokens', cache_read,
      'cache_creation_input_tokens', cache_write + cache_write_1h,
      'reasoning_tokens', reasoning
    ),
    'error_information', iif(
      status <> 'success',
      json_object(
        'error_code', CAST(http_status AS TEXT), 'error_class', reason, 'llm_provider', provider,
        'error_message', error_message
      ),
      NULL
    )
  ) AS metadata,
  iif(cache_hit, 'True', 'False') AS cache_hit,
  '' AS cache_key,
  entry.tags AS request_tags,
  json_extract(CAST(virtual_key.content AS TEXT), '$.team_id') AS team_id,
  NULL AS organization_id,
  coalesce(end_user, '') AS end_user,
  client_ip AS requester_ip_address,
  '{}' AS messages,
  '{}' AS response,
  session_id,
  iif(status = 'success', 'success', 'failure') AS status,
  NULL AS mcp_namespaced_tool_name,
  NULL AS billing_agent_id,
  NULL AS agent_id,
  '{}' AS proxy_server_request,
  coalesce(nullif(call_id, ''), entry.id) AS litellm_call_id,
  strftime('%Y-%m-%d %H:%M:%f', started_at, 'unixepoch') AS created_at,
  strftime('%Y-%m-%d %H:%M:%f', started_at, 'unixepoch') AS updated_at
FROM entry
JOIN kind ON kind.id = entry.kind
LEFT JOIN virtual_key ON virtual_key.digest = kind.key_digest;

-- Amounts of money in a key are nano-dollars. Of a key's budgets the first is LiteLLM's `max_budget`.
CREATE VIEW litellm_key AS
WITH
  known AS (SELECT digest, alias, created_at, deleted_at, CAST(content AS TEXT) AS content FROM virtual_key),
  part AS (
    SELECT kind, cost_nano AS cost, started_at AS moment FROM entry
    UNION ALL
    SELECT kind, cost, starts FROM pruned
  ),
  spent AS (
    SELECT
      digest,
      sum(cost) AS ever,
      sum(cost) FILTER (WHERE moment >= coalesce(json_extract(known.content, '$.spend_since'), 0)) AS since,
      max(moment) AS latest
    FROM known JOIN kind ON key_digest = digest JOIN part ON part.kind = kind.id
    GROUP BY digest
  )
SELECT
  known.digest AS token,
  json_extract(content, '$.name') AS key_name,
  alias AS key_alias,
  0 AS soft_budget_cooldown,
  coalesce(spent.since, 0) / 1e9 AS spend,
  coalesce(spent.ever, 0) / 1e9 AS total_spend,
  strftime('%Y-%m-%d %H:%M:%f', json_extract(content, '$.expires_at'), 'unixepoch') AS expires,
  coalesce(json_extract(content, '$.models'), '[]') AS models,
  coalesce(json_extract(content, '$.aliases'), '{}') AS aliases,
  '{}' AS config,
  '{}' AS router_settings,
  json_extract(content, '$.user_id') AS user_id,
  json_extract(content, '$.team_id') AS team_id,
  NULL AS agent_id,
  NULL AS project_id,
  '{}' AS permissions,
  json_extract(content, '$.max_parallel_requests') AS max_parallel_requests,
  coalesce(json_extract(content, '$.metadata'), '{}') AS metadata,
  coalesce(json_extract(content, '$.blocked'), 0) AS blocked,
  json_extract(content, '$.tpm_limit') AS tpm_limit,
  json_extract(content, '$.rpm_limit') AS rpm_limit,
  NULL AS tpd_limit,
  json_extract(content, '$.budgets[0].max_budget') / 1e9 AS max_budget,
  json_extract(content, '$.budgets[0].duration') AS budget_duration,
  NULL AS budget_reset_at,
  '[]' AS allowed_cache_controls,
  coalesce(json_extract(content, '$.allowed_routes'), '[]') AS allowed_routes,
  NULL AS key_type,
  '[]' AS policies,
  '[]' AS access_group_ids,
  '{}' AS model_spend,
  coalesce(json_extract(content, '$.model_budgets'), '{}') AS model_max_budget,
  '{}' AS budget_fallbacks,
  NULL AS budget_id,
  NULL AS organization_id,
  NULL AS object_permission_id,
  strftime('%Y-%m-%d %H:%M:%f', created_at, 'unixepoch') AS created_at,
  json_extract(content, '$.created_by') AS created_by,
  strftime('%Y-%m-%d %H:%M:%f', coalesce(json_extract(content, '$.updated_at'), created_at), 'unixepoch') AS updated_at,
  json_extract(content, '$.updated_by') AS updated_by,
  strftime('%Y-%m-%d %H:%M:%f', coalesce(json_extract(content, '$.updated_at'), created_at), 'unixepoch')
    AS settings_updated_at,
  strftime('%Y-%m-%d %H:%M:%f', spent.latest, 'unixepoch') AS last_active,
  0 AS rotation_count,
  0 AS auto_rotate,
  NULL AS rotation_interval,
  NULL AS last_rotation_at,
  NULL AS key_rotation_at,
  json_extract(content, '$.budgets') AS budget_limits,
  strftime('%Y-%m-%d %H:%M:%f', deleted_at, 'unixepoch') AS deleted_at
FROM known LEFT JOIN spent ON spent.digest = known.digest;

CREATE VIEW "LiteLLM_VerificationToken" AS
SELECT
  token, key_name, key_alias, soft_budget_cooldown, spend, total_spend, expires, models, aliases, config, router_settings,
  user_id, team_id, agent_id, project_id, permissions, max_parallel_requests, metadata, blocked, tpm_limit, rpm_limit,
  tpd_limit, max_budget, budget_duration, budget_reset_at, allowed_cache_controls, allowed_routes, key_type, policies,
  access_group_ids, model_spend, model_max_budget, budget_fallbacks, budget_id, organization_id, object_permission_id,
  created_at, created_by, updated_at, updated_by, settings_updated_at, last_active, rotation_count, auto_rotate,
  rotation_interval, last_rotation_at, key_rotation_at, budget_limits
FROM litellm_key WHERE deleted_at IS NULL;

CREATE VIEW "LiteLLM_DeletedVerificationToken" AS
SELECT token AS id, litellm_key.* FROM litellm_key WHERE deleted_at IS NOT NULL;

-- What its daily tables have in common, with what was pruned, which has no end user and no tags; each of them is this by
-- another name for who it was.
CREATE VIEW litellm_spend AS
WITH part AS (
  SELECT
    kind, started_at, end_user, tags,
    input + cache_read + cache_write + cache_write_1h + audio_input + image_input AS prompt,
    output + reasoning + audio_output + image_output AS completion,
    cache_read, cache_write + cache_write_1h AS cache_write, cost_nano, total_us, 1 AS requests
  FROM entry
  UNION ALL
  SELECT kind, starts, NULL, '[]', prompt, completion, cache_read, cache_write, cost, total_us, requests FROM pruned
)
SELECT
  date(started_at, 'unixepoch') AS date,
  coalesce(key_digest, '') AS api_key,
  coalesce(nullif(model, ''), model_requested) AS model,
  model_group,
  provider AS custom_llm_provider,
  endpoint,
  coalesce(json_extract(CAST(virtual_key.content AS TEXT), '$.user_id'), end_user, '') AS user_id,
  coalesce(json_extract(CAST(virtual_key.content AS TEXT), '$.team_id'), '') AS team_id,
  coalesce(end_user, '') AS end_user_id,
  tags,
  prompt AS prompt_tokens,
  completion AS completion_tokens,
  cache_read AS cache_read_input_tokens,
  cache_write AS cache_creation_input_tokens,
  cost_nano,
  status = 'success' AS is_success,
  total_us,
  started_at,
  requests
FROM part
JOIN kind ON kind.id = part.kind
LEFT JOIN virtual_key ON virtual_key.digest = kind.key_digest;

CREATE VIEW "LiteLLM_DailyUserSpend" AS
SELECT
  user_id || char(31) || date || char(31) || api_key || char(31) || model || char(31) || model_group || char(31) || custom_llm_provider || char(31) || endpoint AS id,
  user_id, date, api_key, model, model_group, custom_llm_provider, '' AS mcp_namespaced_tool_name, endpoint,
  sum(prompt_tokens) AS prompt_tokens,
  sum(completion_tokens) AS completion_tokens,
  sum(cache_read_input_tokens) AS cache_read_input_tokens,
  sum(cache_creation_input_tokens) AS cache_creation_input_tokens,
  0 AS compression_saved_tokens,
  0.0 AS compression_savings_spend,
  0.0 AS prompt_caching_savings_spend,
  0.0 AS gateway_injected_caching_savings_spend,
  0.0 AS autorouter_savings_spend,
  coalesce(sum(cost_nano), 0) / 1e9 AS spend,
  sum(requests) AS api_requests,
  sum(requests * is_success) AS successful_requests,
  sum(requests * NOT is_success) AS failed_requests,
  sum(total_us) / 1000 AS total_response_time_ms,
  sum(requests) AS timed_requests,
  strftime('%Y-%m-%d %H:%M:%f', min(started_at), 'unixepoch') AS created_at,
  strftime('%Y-%m-%d %H:%M:%f', max(started_at), 'unixepoch') AS updated_at
FROM litellm_spend
GROUP BY user_id, date, api_key, model, model_group, custom_llm_provider, endpoint;

CREATE VIEW "LiteLLM_DailyTeamSpend" AS
SELECT
  team_id || char(31) || date || char(31) || api_key || char(31) || model || char(31) || model_group || char(31) || custom_llm_provider || char(31) || endpoint AS id,
  team_id, date, api_key, model, model_group, custom_llm_provider, '' AS mcp_namespaced_tool_name, endpoint,
  sum(prompt_tokens) AS prompt_tokens,
  sum(completion_tokens) AS completion_tokens,
  sum(cache_read_input_tokens) AS cache_read_input_tokens,
  sum(cache_creation_input_tokens) AS cache_creation_input_tokens,
  0 AS compression_saved_tokens,
  0.0 AS compression_savings_spend,
  0.0 AS prompt_caching_savings_spend,
  0.0 AS gateway_injected_caching_savings_spend,
  0.0 AS autorouter_savings_spend,
  coalesce(sum(cost_nano), 0) / 1e9 AS spend,
  sum(requests) AS api_requests,
  sum(requests * is_success) AS successful_requests,
  sum(requests * NOT is_success) AS failed_requests,
  sum(total_us) / 1000 AS total_response_time_ms,
  sum(requests) AS timed_requests,
  strftime('%Y-%m-%d %H:%M:%f', min(started_at), 'unixepoch') AS created_at,
  strftime('%Y-%m-%d %H:%M:%f', max(started_at), 'unixepoch') AS updated_at
FROM litellm_spend
GROUP BY team_id, date, api_key, model, model_group, custom_llm_provider, endpoint;

CREATE VIEW "LiteLLM_DailyEndUserSpend" AS
SELECT
  end_user_id || char(31) || date || char(31) || api_key || char(31) || model || char(31) || model_group || char(31) || custom_llm_provider || char(31) || endpoint AS id,
  end_user_id, date, api_key, model, model_group, custom_llm_provider, '' AS mcp_namespaced_tool_name, endpoint,
  sum(prompt_tokens) AS prompt_tokens,
  sum(completion_tokens) AS completion_tokens,
  sum(cache_read_input_tokens) AS cache_read_input_tokens,
  sum(cache_creation_input_tokens) AS cache_creation_input_tokens,
  0 AS compression_saved_tokens,
  0.0 AS compression_savings_spend,
  0.0 AS prompt_caching_savings_spend,
  0.0 AS gateway_injected_caching_savings_spend,
  0.0 AS autorouter_savings_spend,
  coalesce(sum(cost_nano), 0) / 1e9 AS spend,
  sum(requests) AS api_requests,
  sum(requests * is_success) AS successful_requests,
  sum(requests * NOT is_success) AS failed_requests,
  sum(total_us) / 1000 AS total_response_time_ms,
  sum(requests) AS timed_requests,
  strftime('%Y-%m-%d %H:%M:%f', min(started_at), 'unixepoch') AS created_at,
  strftime('%Y-%m-%d %H:%M:%f', max(started_at), 'unixepoch') AS updated_at
FROM litellm_spend
GROUP BY end_user_id, date, api_key, model, model_group, custom_llm_provider, endpoint;

CREATE VIEW "LiteLLM_DailyTagSpend" AS
SELECT
  tag || char(31) || date || char(31) || api_key || char(31) || model || char(31) || model_group || char(31) || custom_llm_provider || char(31) || endpoint AS id,
  tag, date, api_key, model, model_group, custom_llm_provider, '' AS mcp_namespaced_tool_name, endpoint,
  sum(prompt_tokens) AS prompt_tokens,
  sum(completion_tokens) AS completion_tokens,
  sum(cache_read_input_tokens) AS cache_read_input_tokens,
  sum(cache_creation_input_tokens) AS cache_creation_input_tokens,
  0 AS compression_saved_tokens,
  0.0 AS compression_savings_spend,
  0.0 AS prompt_caching_savings_spend,
  0.0 AS gateway_injected_caching_savings_spend,
  0.0 AS autorouter_savings_spend,
  coalesce(sum(cost_nano), 0) / 1e9 AS spend,
  sum(requests) AS api_requests,
  sum(requests * is_success) AS successful_requests,
  sum(requests * NOT is_success) AS failed_requests,
  sum(total_us) / 1000 AS total_response_time_ms,
  sum(requests) AS timed_requests,
  strftime('%Y-%m-%d %H:%M:%f', min(started_at), 'unixepoch') AS created_at,
  strftime('%Y-%m-%d %H:%M:%f', max(started_at), 'unixepoch') AS updated_at
FROM (SELECT litellm_spend.*, tag.value AS tag FROM litellm_spend, json_each(tags) AS tag)
GROUP BY tag, date, api_key, model, model_group, custom_llm_provider, endpoint;

CREATE VIEW "LiteLLM_DailyGlobalSpend" AS
SELECT
  date || char(31) || api_key || char(31) || model || char(31) || model_group || char(31) || custom_llm_provider || char(31) || endpoint AS id,
  date, api_key, model, model_group, custom_llm_provider, '' AS mcp_namespaced_tool_name, endpoint,
  sum(prompt_tokens) AS prompt_tokens,
  sum(completion_tokens) AS completion_tokens,
  sum(cache_read_input_tokens) AS cache_read_input_tokens,
  sum(cache_creation_input_tokens) AS cache_creation_input_tokens,
  0 AS compression_saved_tokens,
  0.0 AS compression_savings_spend,
  0.0 AS prompt_caching_savings_spend,
  0.0 AS gateway_injected_caching_savings_spend,
  0.0 AS autorouter_savings_spend,
  coalesce(sum(cost_nano), 0) / 1e9 AS spend,
  sum(requests) AS api_requests,
  sum(requests * is_success) AS successful_requests,
  sum(requests * NOT is_success) AS failed_requests,
  sum(total_us) / 1000 AS total_response_time_ms,
  sum(requests) AS timed_requests,
  strftime('%Y-%m-%d %H:%M:%f', min(started_at), 'unixepoch') AS created_at,
  strftime('%Y-%m-%d %H:%M:%f', max(started_at), 'unixepoch') AS updated_at
FROM litellm_spend
GROUP BY date, api_key, model, model_group, custom_llm_provider, endpoint;

CREATE VIEW "MonthlyGlobalSpend" AS
SELECT date, coalesce(sum(cost_nano), 0) / 1e9 AS spend
FROM litellm_spend WHERE started_at >= CAST(strftime('%s', 'now', 'start of day', '-30 days') AS INTEGER) GROUP BY date;

CREATE VIEW "MonthlyGlobalSpendPerKey" AS
SELECT date, coalesce(sum(cost_nano), 0) / 1e9 AS spend, api_key
FROM litellm_spend WHERE started_at >= CAST(strftime('%s', 'now', 'start of day', '-30 days') AS INTEGER) GROUP BY date, api_key;

CREATE VIEW "MonthlyGlobalSpendPerUserPerKey" AS
SELECT date, coalesce(sum(cost_nano), 0) / 1e9 AS spend, api_key, user_id AS "user"
FROM litellm_spend WHERE started_at >= CAST(strftime('%s', 'now', 'start of day', '-30 days') AS INTEGER) GROUP BY date, api_key, user_id;

CREATE VIEW "Last30dKeysBySpend" AS
SELECT
  api_key, alias AS key_alias, json_extract(CAST(content AS TEXT), '$.name') AS key_name,
  coalesce(sum(cost_nano), 0) / 1e9 AS total_spend
FROM litellm_spend LEFT JOIN virtual_key ON digest = api_key
WHERE started_at >= CAST(strftime('%s', 'now', 'start of day', '-30 days') AS INTEGER)
GROUP BY api_key ORDER BY 4 DESC;

CREATE VIEW "Last30dModelsBySpend" AS
SELECT model, coalesce(sum(cost_nano), 0) / 1e9 AS total_spend
FROM litellm_spend WHERE started_at >= CAST(strftime('%s', 'now', 'start of day', '-30 days') AS INTEGER) AND model <> ''
GROUP BY model ORDER BY 2 DESC;

CREATE VIEW "Last30dTopEndUsersSpend" AS
SELECT end_user_id AS end_user, count(*) AS total_events, coalesce(sum(cost_nano), 0) / 1e9 AS total_spend
FROM litellm_spend WHERE started_at >= CAST(strftime('%s', 'now', 'start of day', '-30 days') AS INTEGER) AND end_user_id <> ''
GROUP BY end_user_id ORDER BY 3 DESC LIMIT 100;

CREATE VIEW "DailyTagSpend" AS
SELECT
  tag.value AS individual_request_tag, date AS spend_date, sum(requests) AS log_count,
  coalesce(sum(cost_nano), 0) / 1e9 AS total_spend
FROM litellm_spend, json_each(tags) AS tag
GROUP BY tag.value, date;
