WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(1633907817)),
inserted AS (
    INSERT INTO activity (request_id, started_at, key_id, gateway, endpoint, model_requested, model_served, stream, status, outcome, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, usage_source, cost_usd, cost_kind, price_source, price_date, duration_ms, ttft_ms, tokens_per_second, finish_reason, error_type, error_code, upstream_request_id, upstream_status, attempts, events, bytes_out, longest_gap_ms, client_retry, client_request_id, error_message, error_param, repaired)
    SELECT request_id, started_at, left(key_id, 300), left(gateway, 300), left(endpoint, 300), left(model_requested, 300), left(model_served, 300), stream, status, left(outcome, 300), prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, left(usage_source, 300), cost_usd, left(cost_kind, 300), left(price_source, 300), price_date, duration_ms, ttft_ms, tokens_per_second, left(finish_reason, 300), left(error_type, 300), left(error_code, 300), left(upstream_request_id, 300), upstream_status, attempts, events, bytes_out, longest_gap_ms, client_retry, left(client_request_id, 300), left(error_message, 300), left(error_param, 300), left(repaired, 300)
    FROM turn CROSS JOIN jsonb_to_recordset(CAST(%(rows)s AS jsonb)) AS r (request_id UUID, started_at TIMESTAMP WITH TIME ZONE, key_id TEXT, gateway TEXT, endpoint TEXT, model_requested TEXT, model_served TEXT, stream BOOLEAN, status INTEGER, outcome TEXT, prompt_tokens BIGINT, completion_tokens BIGINT, cached_tokens BIGINT, reasoning_tokens BIGINT, usage_source TEXT, cost_usd NUMERIC(30, 15), cost_kind TEXT, price_source TEXT, price_date DATE, duration_ms DOUBLE PRECISION, ttft_ms DOUBLE PRECISION, tokens_per_second DOUBLE PRECISION, finish_reason TEXT, error_type TEXT, error_code TEXT, upstream_request_id TEXT, upstream_status INTEGER, attempts JSONB, events INTEGER, bytes_out BIGINT, longest_gap_ms DOUBLE PRECISION, client_retry INTEGER, client_request_id TEXT, error_message TEXT, error_param TEXT, repaired TEXT)
    ON CONFLICT DO NOTHING
    RETURNING date_trunc('minute', started_at, 'UTC') AS minute, coalesce(gateway, '') AS gateway,
        coalesce(model_served, '') AS model, key_id, outcome, coalesce(error_type, '') AS error_type, cost_kind, cost_usd,
        prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, tokens_per_second, ttft_ms, duration_ms,
        coalesce(tokens_per_second >= 0.001 AND completion_tokens > 0, false) AS speed_known),
counted AS (
    SELECT minute, gateway, model, key_id, outcome, error_type, count(*) AS requests, count(*) FILTER (WHERE outcome = 'ok') AS ok_requests, coalesce(sum(prompt_tokens), 0) AS prompt_tokens, coalesce(sum(completion_tokens), 0) AS completion_tokens, coalesce(sum(cached_tokens), 0) AS cached_tokens, coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens, coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'exact'), 0) AS cost_exact, coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'estimated'), 0) AS cost_estimated, count(*) FILTER (WHERE cost_kind = 'unknown' AND outcome <> 'rejected') AS unpriced_requests, coalesce(sum(completion_tokens) FILTER (WHERE speed_known), 0) AS speed_tokens, coalesce(sum(completion_tokens * 1000 / tokens_per_second) FILTER (WHERE speed_known), 0) AS speed_ms
    FROM inserted GROUP BY minute, gateway, model, key_id, outcome, error_type),
usage AS (
    INSERT INTO usage_rollup (level, start, gateway, outcome, error_type, requests, ok_requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_exact, cost_estimated, unpriced_requests, speed_tokens, speed_ms)
    SELECT level, start, gateway, outcome, error_type, sum(requests), sum(ok_requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost_exact), sum(cost_estimated), sum(unpriced_requests), sum(speed_tokens), sum(speed_ms) FROM counted CROSS JOIN LATERAL (VALUES
    ('minute', minute),
    ('hour', date_trunc('hour', minute, 'UTC')),
    ('day', date_trunc('day', minute, 'UTC'))) AS levels (level, start) GROUP BY level, start, gateway, outcome, error_type
    ON CONFLICT (level, start, gateway, outcome, error_type) DO UPDATE SET
        requests = usage_rollup.requests + excluded.requests, ok_requests = usage_rollup.ok_requests + excluded.ok_requests, prompt_tokens = usage_rollup.prompt_tokens + excluded.prompt_tokens, completion_tokens = usage_rollup.completion_tokens + excluded.completion_tokens, cached_tokens = usage_rollup.cached_tokens + excluded.cached_tokens, reasoning_tokens = usage_rollup.reasoning_tokens + excluded.reasoning_tokens, cost_exact = usage_rollup.cost_exact + excluded.cost_exact, cost_estimated = usage_rollup.cost_estimated + excluded.cost_estimated, unpriced_requests = usage_rollup.unpriced_requests + excluded.unpriced_requests, speed_tokens = usage_rollup.speed_tokens + excluded.speed_tokens, speed_ms = usage_rollup.speed_ms + excluded.speed_ms),
models AS (
    INSERT INTO model_rollup (level, start, gateway, model, requests, ok_requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_exact, cost_estimated, unpriced_requests, speed_tokens, speed_ms)
    SELECT level, start, gateway, model, sum(requests), sum(ok_requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost_exact), sum(cost_estimated), sum(unpriced_requests), sum(speed_tokens), sum(speed_ms) FROM counted CROSS JOIN LATERAL (VALUES
    ('minute', minute),
    ('hour', date_trunc('hour', minute, 'UTC')),
    ('day', date_trunc('day', minute, 'UTC'))) AS levels (level, start) GROUP BY level, start, gateway, model
    ON CONFLICT (level, start, gateway, model) DO UPDATE SET
        requests = model_rollup.requests + excluded.requests, ok_requests = model_rollup.ok_requests + excluded.ok_requests, prompt_tokens = model_rollup.prompt_tokens + excluded.prompt_tokens, completion_tokens = model_rollup.completion_tokens + excluded.completion_tokens, cached_tokens = model_rollup.cached_tokens + excluded.cached_tokens, reasoning_tokens = model_rollup.reasoning_tokens + excluded.reasoning_tokens, cost_exact = model_rollup.cost_exact + excluded.cost_exact, cost_estimated = model_rollup.cost_estimated + excluded.cost_estimated, unpriced_requests = model_rollup.unpriced_requests + excluded.unpriced_requests, speed_tokens = model_rollup.speed_tokens + excluded.speed_tokens, speed_ms = model_rollup.speed_ms + excluded.speed_ms),
key_days AS (
    INSERT INTO key_usage (key_id, day, gateway, model, requests, ok_requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost_exact, cost_estimated, unpriced_requests, speed_tokens, speed_ms)
    SELECT key_id, day, gateway, model, sum(requests), sum(ok_requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost_exact), sum(cost_estimated), sum(unpriced_requests), sum(speed_tokens), sum(speed_ms) FROM (SELECT *, CAST(minute AT TIME ZONE 'UTC' AS date) AS day FROM counted) AS counted GROUP BY key_id, day, gateway, model
    ON CONFLICT (key_id, day, gateway, model) DO UPDATE SET
        requests = key_usage.requests + excluded.requests, ok_requests = key_usage.ok_requests + excluded.ok_requests, prompt_tokens = key_usage.prompt_tokens + excluded.prompt_tokens, completion_tokens = key_usage.completion_tokens + excluded.completion_tokens, cached_tokens = key_usage.cached_tokens + excluded.cached_tokens, reasoning_tokens = key_usage.reasoning_tokens + excluded.reasoning_tokens, cost_exact = key_usage.cost_exact + excluded.cost_exact, cost_estimated = key_usage.cost_estimated + excluded.cost_estimated, unpriced_requests = key_usage.unpriced_requests + excluded.unpriced_requests, speed_tokens = key_usage.speed_tokens + excluded.speed_tokens, speed_ms = key_usage.speed_ms + excluded.speed_ms),
keys AS (
    INSERT INTO key_seen (level, start, gateway, key_id)
    SELECT DISTINCT level, start, gateway, key_id FROM counted CROSS JOIN LATERAL (VALUES
    ('minute', minute),
    ('hour', date_trunc('hour', minute, 'UTC')),
    ('day', date_trunc('day', minute, 'UTC'))) AS levels (level, start)
    ON CONFLICT DO NOTHING),
latencies AS (
    INSERT INTO latency_rollup (level, start, gateway, metric, buckets, counts)
    SELECT level, start, gateway, metric, array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket) FROM (
        SELECT level, start, gateway, metric, bucket, CAST(sum(count) AS bigint) AS count FROM (
            SELECT minute, gateway, metric, ceil(ln(greatest(value_ms, 0.01)) / 0.09531017980432493)::smallint AS bucket, count(*) AS count
            FROM inserted
            CROSS JOIN LATERAL (VALUES ('ttft', ttft_ms), ('duration', duration_ms)) AS metrics (metric, value_ms)
            WHERE value_ms IS NOT NULL AND outcome NOT IN ('rejected', 'lost') GROUP BY minute, gateway, metric, bucket) AS by_minute CROSS JOIN LATERAL (VALUES
    ('minute', minute),
    ('hour', date_trunc('hour', minute, 'UTC')),
    ('day', date_trunc('day', minute, 'UTC'))) AS levels (level, start)
        GROUP BY level, start, gateway, metric, bucket) AS histogram
    GROUP BY level, start, gateway, metric
    ON CONFLICT (level, start, gateway, metric) DO UPDATE SET (buckets, counts) = (
        SELECT array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket) FROM (
            SELECT bucket, CAST(sum(count) AS bigint) AS count FROM (
                SELECT * FROM unnest(latency_rollup.buckets, latency_rollup.counts)
                UNION ALL SELECT * FROM unnest(excluded.buckets, excluded.counts)) AS parts (bucket, count)
            GROUP BY bucket) AS merged))
, also AS (
    INSERT INTO worker_ledger (worker_id, version, started, in_flight, unshipped, unrecorded, rejected, unsent, direct, segment, byte_offset)
    SELECT worker_id, version, started, in_flight, unshipped, unrecorded, rejected, unsent, direct, segment, byte_offset FROM jsonb_to_record(CAST(%(ledger)s AS jsonb)) AS line (worker_id text, version bigint, started bigint, in_flight bigint, unshipped bigint, unrecorded bigint, rejected bigint, unsent bigint, direct bigint, segment bigint, byte_offset bigint)
    ON CONFLICT (worker_id) DO UPDATE SET version = excluded.version, started = excluded.started, in_flight = excluded.in_flight, unshipped = excluded.unshipped, unrecorded = excluded.unrecorded, rejected = excluded.rejected, unsent = excluded.unsent, direct = excluded.direct, segment = excluded.segment, byte_offset = excluded.byte_offset, updated_at = now()
    WHERE excluded.version > worker_ledger.version)
SELECT count(*) FROM inserted
