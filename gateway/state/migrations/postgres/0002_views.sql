-- The ledger and the keys as LiteLLM's tables show them, name for name, so that dashboards which read those go on working.
-- What this gateway does not know is null, empty or zero there. Times are UTC without a zone; dollars are floats, as theirs
-- are: whoever adds up money takes `cost_nano` from `ledger`.
--
-- They stand in our schema, and where the names are free in `public` too. A database in which LiteLLM has worked has tables
-- of these names there: those are left as they are.

CREATE VIEW penstock."LiteLLM_SpendLogs" AS
SELECT
  entry.id AS request_id,
  CASE operation
    WHEN 'chat' THEN CASE client_format WHEN 'anthropic' THEN 'anthropic_messages' ELSE 'acompletion' END
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
  coalesce(cost_nano, 0) / 1e9::double precision AS spend,
  (input + cache_read + cache_write + cache_write_1h + audio_input + image_input
    + output + reasoning + audio_output + image_output) AS total_tokens,
  (input + cache_read + cache_write + cache_write_1h + audio_input + image_input) AS prompt_tokens,
  (output + reasoning + audio_output + image_output) AS completion_tokens,
  to_timestamp(started_at) AT TIME ZONE 'UTC' AS "startTime",
  to_timestamp(started_at + total_us / 1e6::double precision) AT TIME ZONE 'UTC' AS "endTime",
  total_us / 1000 AS request_duration_ms,
  to_timestamp(started_at + ttfb_us / 1e6::double precision) AT TIME ZONE 'UTC' AS "completionStartTime",
  coalesce(nullif(model, ''), model_requested) AS model,
  deployment_id AS model_id,
  model_group,
  provider AS custom_llm_provider,
  api_base,
  coalesce(virtual_key.content ->> 'user_id', end_user, '') AS "user",
  jsonb_build_object(
    'status', CASE status WHEN 'success' THEN 'success' ELSE 'failure' END,
    'user_api_key', key_digest,
    'user_api_key_alias', key_alias,
    'user_api_key_user_id', virtual_key.content ->> 'user_id',
    'user_api_key_team_id', virtual_key.content ->> 'team_id',
    'user_api_key_end_user_id', end_user,
    'user_api_key_request_route', endpoint,
    'requester_ip_address', client_ip,
    'user_agent', user_agent,
    'attempted_retries', retries,
    'attempted_fallbacks', fallbacks,
    'original_model_group', model_requested,
    'litellm_overhead_time_ms', overhead_us / 1000.0,
    'additional_usage_values', jsonb_build_object(
      'cache_read_input_tokens', cache_read,
      'cache_creation_input_tokens', cache_write + cache_write_1h,
      'reasoning_tokens', reasoning
    ),
    'error_information', CASE WHEN status <> 'success' THEN jsonb_build_object(
      'error_code', http_status::text, 'error_class', reason, 'llm_provider', provider, 'error_message', error_message
    ) END
  ) AS metadata,
  CASE WHEN cache_hit THEN 'True' ELSE 'False' END AS cache_hit,
  ''::text AS cache_key,
  entry.tags AS request_tags,
  virtual_key.content ->> 'team_id' AS team_id,
  NULL::text AS organization_id,
  coalesce(end_user, '') AS end_user,
  client_ip AS requester_ip_address,
  '{}'::jsonb AS messages,
  '{}'::jsonb AS response,
  session_id,
  CASE status WHEN 'success' THEN 'success' ELSE 'failure' END AS status,
  NULL::text AS mcp_namespaced_tool_name,
  NULL::text AS billing_agent_id,
  NULL::text AS agent_id,
  '{}'::jsonb AS proxy_server_request,
  coalesce(nullif(call_id, ''), entry.id) AS litellm_call_id,
  to_timestamp(started_at) AT TIME ZONE 'UTC' AS created_at,
  to_timestamp(started_at) AT TIME ZONE 'UTC' AS updated_at
FROM penstock.entry
JOIN penstock.kind ON kind.id = entry.kind
LEFT JOIN penstock.virtual_key ON virtual_key.digest = kind.key_digest;

-- Amounts of money in a key are nano-dollars. Of a key's budgets the first is LiteLLM's `max_budget`.
CREATE VIEW penstock.litellm_key AS
SELECT
  virtual_key.digest AS token,
  content ->> 'name' AS key_name,
  alias AS key_alias,
  false AS soft_budget_cooldown,
  coalesce(spent.since, 0) / 1e9::double precision AS spend,
  coalesce(spent.ever, 0) / 1e9::double precision AS total_spend,
  to_timestamp((content ->> 'expires_at')::double precision) AT TIME ZONE 'UTC' AS expires,
  coalesce(ARRAY(SELECT jsonb_array_elements_text(content -> 'models')), '{}') AS models,
  coalesce(content -> 'aliases', '{}') AS aliases,
  '{}'::jsonb AS config,
  '{}'::jsonb AS router_settings,
  content ->> 'user_id' AS user_id,
  content ->> 'team_id' AS team_id,
  NULL::text AS agent_id,
  NULL::text AS project_id,
  '{}'::jsonb AS permissions,
  (content ->> 'max_parallel_requests')::bigint AS max_parallel_requests,
  coalesce(content -> 'metadata', '{}') AS metadata,
  coalesce((content ->> 'blocked')::boolean, false) AS blocked,
  (content ->> 'tpm_limit')::bigint AS tpm_limit,
  (content ->> 'rpm_limit')::bigint AS rpm_limit,
  NULL::bigint AS tpd_limit,
  (content -> 'budgets' -> 0 ->> 'max_budget')::double precision / 1e9::double precision AS max_budget,
  content -> 'budgets' -> 0 ->> 'duration' AS budget_duration,
  NULL::timestamp AS budget_reset_at,
  '{}'::text[] AS allowed_cache_controls,
  coalesce(ARRAY(SELECT jsonb_array_elements_text(content -> 'allowed_routes')), '{}') AS allowed_routes,
  NULL::text AS key_type,
  '{}'::text[] AS policies,
  '{}'::text[] AS access_group_ids,
  '{}'::jsonb AS model_spend,
  coalesce(content -> 'model_budgets', '{}') AS model_max_budget,
  '{}'::jsonb AS budget_fallbacks,
  NULL::text AS budget_id,
  NULL::text AS organization_id,
  NULL::text AS object_permission_id,
  to_timestamp(created_at) AT TIME ZONE 'UTC' AS created_at,
  content ->> 'created_by' AS created_by,
  to_timestamp(coalesce((content ->> 'updated_at')::double precision, created_at)) AT TIME ZONE 'UTC' AS updated_at,
  content ->> 'updated_by' AS updated_by,
  to_timestamp(coalesce((content ->> 'updated_at')::double precision, created_at)) AT TIME ZONE 'UTC' AS settings_updated_at,
  to_timestamp(spent.latest) AT TIME ZONE 'UTC' AS last_active,
  0 AS rotation_count,
  false AS auto_rotate,
  NULL::text AS rotation_interval,
  NULL::timestamp AS last_rotation_at,
  NULL::timestamp AS key_rotation_at,
  content -> 'budgets' AS budget_limits,
  to_timestamp(deleted_at) AT TIME ZONE 'UTC' AS deleted_at
FROM penstock.virtual_key
LEFT JOIN LATERAL (
  SELECT
    sum(cost_nano) AS ever,
    sum(cost_nano) FILTER (
      WHERE started_at >= coalesce((content ->> 'spend_since')::double precision, 0)
    ) AS since,
    max(started_at) AS latest
  FROM penstock.entry JOIN penstock.kind ON kind.id = entry.kind
  WHERE key_digest = virtual_key.digest
) AS spent ON true;

CREATE VIEW penstock."LiteLLM_VerificationToken" AS
SELECT
  token, key_name, key_alias, soft_budget_cooldown, spend, total_spend, expires, models, aliases, config, router_settings,
  user_id, team_id, agent_id, project_id, permissions, max_parallel_requests, metadata, blocked, tpm_limit, rpm_limit,
  tpd_limit, max_budget, budget_duration, budget_reset_at, allowed_cache_controls, allowed_routes, key_type, policies,
  access_group_ids, model_spend, model_max_budget, budget_fallbacks, budget_id, organization_id, object_permission_id,
  created_at, created_by, updated_at, updated_by, settings_updated_at, last_active, rotation_count, auto_rotate,
  rotation_interval, last_rotation_at, key_rotation_at, budget_limits
FROM penstock.litellm_key WHERE deleted_at IS NULL;

CREATE VIEW penstock."LiteLLM_DeletedVerificationToken" AS
SELECT token AS id, litellm_key.* FROM penstock.litellm_key WHERE deleted_at IS NOT NULL;

-- What its daily tables have in common; each of them is this by another name for who it was.
CREATE VIEW penstock.litellm_spend AS
SELECT
  to_char(to_timestamp(started_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS date,
  coalesce(key_digest, '') AS api_key,
  coalesce(nullif(model, ''), model_requested) AS model,
  model_group,
  provider AS custom_llm_provider,
  endpoint,
  coalesce(virtual_key.content ->> 'user_id', end_user, '') AS user_id,
  coalesce(virtual_key.content ->> 'team_id', '') AS team_id,
  coalesce(end_user, '') AS end_user_id,
  entry.tags,
  input + cache_read + cache_write + cache_write_1h + audio_input + image_input AS prompt_tokens,
  output + reasoning + audio_output + image_output AS completion_tokens,
  cache_read AS cache_read_input_tokens,
  cache_write + cache_write_1h AS cache_creation_input_tokens,
  cost_nano,
  status = 'success' AS is_success,
  total_us,
  started_at
FROM penstock.entry
JOIN penstock.kind ON kind.id = entry.kind
LEFT JOIN penstock.virtual_key ON virtual_key.digest = kind.key_digest;

DO $views$
DECLARE
  who record;
BEGIN
  FOR who IN SELECT * FROM (VALUES
    ('LiteLLM_DailyUserSpend', 'user_id', ''),
    ('LiteLLM_DailyTeamSpend', 'team_id', ''),
    ('LiteLLM_DailyEndUserSpend', 'end_user_id', ''),
    ('LiteLLM_DailyTagSpend', 'tag', 'CROSS JOIN LATERAL jsonb_array_elements_text(tags) AS tag'),
    ('LiteLLM_DailyGlobalSpend', NULL, '')
  ) AS tables (name, entity, and_also) LOOP
    EXECUTE format(
      $sql$
      CREATE VIEW penstock.%I AS
      SELECT
        md5(concat_ws(E'\x1f', %s date, api_key, model, model_group, custom_llm_provider, endpoint)) AS id,
        %s date, api_key, model, model_group, custom_llm_provider, ''::text AS mcp_namespaced_tool_name, endpoint,
        sum(prompt_tokens)::bigint AS prompt_tokens,
        sum(completion_tokens)::bigint AS completion_tokens,
        sum(cache_read_input_tokens)::bigint AS cache_read_input_tokens,
        sum(cache_creation_input_tokens)::bigint AS cache_creation_input_tokens,
        0::bigint AS compression_saved_tokens,
        0::double precision AS compression_savings_spend,
        0::double precision AS prompt_caching_savings_spend,
        0::double precision AS gateway_injected_caching_savings_spend,
        0::double precision AS autorouter_savings_spend,
        coalesce(sum(cost_nano), 0)::double precision / 1e9::double precision AS spend,
        count(*) AS api_requests,
        count(*) FILTER (WHERE is_success) AS successful_requests,
        count(*) FILTER (WHERE NOT is_success) AS failed_requests,
        (sum(total_us) / 1000)::bigint AS total_response_time_ms,
        count(*) AS timed_requests,
        to_timestamp(min(started_at)) AT TIME ZONE 'UTC' AS created_at,
        to_timestamp(max(started_at)) AT TIME ZONE 'UTC' AS updated_at
      FROM penstock.litellm_spend %s
      GROUP BY %s date, api_key, model, model_group, custom_llm_provider, endpoint
      $sql$,
      who.name, who.entity || ',', who.entity || ',', who.and_also, who.entity || ','
    );
  END LOOP;
END
$views$;

CREATE VIEW penstock."MonthlyGlobalSpend" AS
SELECT date("startTime") AS date, sum(spend) AS spend
FROM penstock."LiteLLM_SpendLogs" WHERE "startTime" >= current_date - interval '30 days' GROUP BY 1;

CREATE VIEW penstock."MonthlyGlobalSpendPerKey" AS
SELECT date("startTime") AS date, sum(spend) AS spend, api_key
FROM penstock."LiteLLM_SpendLogs" WHERE "startTime" >= current_date - interval '30 days' GROUP BY 1, api_key;

CREATE VIEW penstock."MonthlyGlobalSpendPerUserPerKey" AS
SELECT date("startTime") AS date, sum(spend) AS spend, api_key, "user"
FROM penstock."LiteLLM_SpendLogs" WHERE "startTime" >= current_date - interval '30 days' GROUP BY 1, api_key, "user";

CREATE VIEW penstock."Last30dKeysBySpend" AS
SELECT api_key, alias AS key_alias, content ->> 'name' AS key_name, sum(spend) AS total_spend
FROM penstock."LiteLLM_SpendLogs" LEFT JOIN penstock.virtual_key ON digest = api_key
WHERE "startTime" >= current_date - interval '30 days' GROUP BY api_key, alias, content ->> 'name' ORDER BY 4 DESC;

CREATE VIEW penstock."Last30dModelsBySpend" AS
SELECT model, sum(spend) AS total_spend
FROM penstock."LiteLLM_SpendLogs" WHERE "startTime" >= current_date - interval '30 days' AND model <> ''
GROUP BY model ORDER BY 2 DESC;

CREATE VIEW penstock."Last30dTopEndUsersSpend" AS
SELECT end_user, count(*) AS total_events, sum(spend) AS total_spend
FROM penstock."LiteLLM_SpendLogs" WHERE "startTime" >= current_date - interval '30 days' AND end_user <> ''
GROUP BY end_user ORDER BY 3 DESC LIMIT 100;

CREATE VIEW penstock."DailyTagSpend" AS
SELECT tag AS individual_request_tag, date("startTime") AS spend_date, count(*) AS log_count, sum(spend) AS total_spend
FROM penstock."LiteLLM_SpendLogs" CROSS JOIN LATERAL jsonb_array_elements_text(request_tags) AS tag
GROUP BY 1, 2;

DO $names$
DECLARE
  view text;
BEGIN
  FOR view IN SELECT viewname FROM pg_views
    WHERE schemaname = 'penstock' AND viewname ~ '^(LiteLLM_|Monthly|Last30d|Daily)'
  LOOP
    IF to_regclass(format('public.%I', view)) IS NULL THEN
      EXECUTE format('CREATE VIEW public.%I AS SELECT * FROM penstock.%I', view, view);
    END IF;
  END LOOP;
EXCEPTION WHEN insufficient_privilege OR invalid_schema_name THEN
  NULL;  -- they are in our schema at least
END
$names$;
