-- LiteLLM's views with what was pruned: its own daily tables and the spend of keys outlive its logs too. A pruned row has no end
-- user and no tags, so "DailyTagSpend", "LiteLLM_DailyTagSpend" and "Last30dTopEndUsersSpend" are of the rows that are left.
CREATE OR REPLACE VIEW penstock.litellm_spend AS
WITH part AS (
  SELECT
    kind, started_at, end_user, tags,
    input + cache_read + cache_write + cache_write_1h + audio_input + image_input AS prompt,
    output + reasoning + audio_output + image_output AS completion,
    cache_read, cache_write + cache_write_1h AS cache_write, cost_nano, total_us, 1::bigint AS requests
  FROM penstock.entry
  UNION ALL
  SELECT kind, starts, NULL, '[]'::jsonb, prompt, completion, cache_read, cache_write, cost, total_us, requests
  FROM penstock.pruned
)
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
JOIN penstock.kind ON kind.id = part.kind
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
      CREATE OR REPLACE VIEW penstock.%I AS
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
        sum(requests)::bigint AS api_requests,
        coalesce(sum(requests) FILTER (WHERE is_success), 0)::bigint AS successful_requests,
        coalesce(sum(requests) FILTER (WHERE NOT is_success), 0)::bigint AS failed_requests,
        (sum(total_us) / 1000)::bigint AS total_response_time_ms,
        sum(requests)::bigint AS timed_requests,
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

CREATE OR REPLACE VIEW penstock.litellm_key AS
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
    sum(cost) AS ever,
    sum(cost) FILTER (WHERE moment >= coalesce((content ->> 'spend_since')::double precision, 0)) AS since,
    max(moment) AS latest
  FROM (
    SELECT cost_nano AS cost, started_at AS moment
    FROM penstock.entry JOIN penstock.kind ON kind.id = entry.kind WHERE key_digest = virtual_key.digest
    UNION ALL
    SELECT cost, starts FROM penstock.pruned JOIN penstock.kind ON kind.id = pruned.kind
    WHERE key_digest = virtual_key.digest
  ) AS part
) AS spent ON true;

CREATE OR REPLACE VIEW penstock."MonthlyGlobalSpend" AS
SELECT date(date) AS date, coalesce(sum(cost_nano), 0)::double precision / 1e9::double precision AS spend
FROM penstock.litellm_spend WHERE started_at >= extract(epoch FROM current_date - interval '30 days') GROUP BY 1;

CREATE OR REPLACE VIEW penstock."MonthlyGlobalSpendPerKey" AS
SELECT date(date) AS date, coalesce(sum(cost_nano), 0)::double precision / 1e9::double precision AS spend, api_key
FROM penstock.litellm_spend WHERE started_at >= extract(epoch FROM current_date - interval '30 days') GROUP BY 1, api_key;

CREATE OR REPLACE VIEW penstock."MonthlyGlobalSpendPerUserPerKey" AS
SELECT
  date(date) AS date, coalesce(sum(cost_nano), 0)::double precision / 1e9::double precision AS spend, api_key,
  user_id AS "user"
FROM penstock.litellm_spend WHERE started_at >= extract(epoch FROM current_date - interval '30 days')
GROUP BY 1, api_key, user_id;

CREATE OR REPLACE VIEW penstock."Last30dKeysBySpend" AS
SELECT
  api_key, alias AS key_alias, content ->> 'name' AS key_name,
  coalesce(sum(cost_nano), 0)::double precision / 1e9::double precision AS total_spend
FROM penstock.litellm_spend LEFT JOIN penstock.virtual_key ON digest = api_key
WHERE started_at >= extract(epoch FROM current_date - interval '30 days')
GROUP BY api_key, alias, content ->> 'name' ORDER BY 4 DESC;

CREATE OR REPLACE VIEW penstock."Last30dModelsBySpend" AS
SELECT model, coalesce(sum(cost_nano), 0)::double precision / 1e9::double precision AS total_spend
FROM penstock.litellm_spend
WHERE started_at >= extract(epoch FROM current_date - interval '30 days') AND model <> ''
GROUP BY model ORDER BY 2 DESC;
