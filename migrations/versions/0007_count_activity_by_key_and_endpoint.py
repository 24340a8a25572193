"""Creates the sums by key, model and endpoint, and the trigger that counts every row of activity once.

Rows inserted into activity are counted by a trigger, in the same transaction, as rows of rollup_delta. Nobody waits
for anybody there; a worker folds the deltas into the sums a moment later (app/db/fold.py). The earlier code writes its
own sums (the tables of 0003) together with its rows and leaves activity.worker_id NULL, which tells its rows from those
of the later code. So both may run side by side, and the later code also keeps the earlier sums filled.

The new sums begin with those of the past: of all requests from the tables of 0003; of each key from key_usage and, like
those of each model, from the rows of activity that are still kept.

The advisory lock keeps the earlier code from writing until all of this is done; its records wait in the journal.
activity itself is changed last, because readers wait for that.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The lock of the statement by which the earlier code inserts; "activity" in ASCII, cut to 32 bits.
INSERT_LOCK = 0x61637469

# The only endpoint so far.
ENDPOINT = "/v1/chat/completions"

# As in 0003: many updates of a row need free space in its page.
FILLFACTORS = {"minute": 90, "hour": 70, "day": 50}

SUMS = {
    "requests": "count(*)",
    "ok_requests": "count(*) FILTER (WHERE outcome = 'ok')",
    "prompt_tokens": "coalesce(sum(prompt_tokens), 0)",
    "completion_tokens": "coalesce(sum(completion_tokens), 0)",
    "cached_tokens": "coalesce(sum(cached_tokens), 0)",
    "reasoning_tokens": "coalesce(sum(reasoning_tokens), 0)",
    "cost_exact": "coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'exact'), 0)",
    "cost_estimated": "coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'estimated'), 0)",
    # A rejected request was sent to no provider, so it has no price that could be missing.
    "unpriced_requests": "count(*) FILTER (WHERE cost_kind = 'unknown' AND outcome <> 'rejected')",
    "speed_tokens": "coalesce(sum(completion_tokens) FILTER (WHERE {fast}), 0)",
    "speed_ms": "coalesce(sum(completion_tokens * 1000 / tokens_per_second) FILTER (WHERE {fast}), 0)",
}
# A speed below one token in 1,000 s is a broken measurement and would overflow the sum of times.
FAST = "tokens_per_second >= 0.001 AND completion_tokens > 0"

# Rejected requests measure no provider, and the end of a lost request was not seen.
TIMED = "outcome NOT IN ('rejected', 'lost')"
# The histogram's bucket of a time in milliseconds; the divisor is ln(1.1).
BUCKET = "CAST(ceil(ln(greatest({0}, 0.01)) / 0.09531017980432493) AS smallint)"

# How a row of activity is counted. Absent text is ''. Only a model that a list of models or a response confirmed is
# counted by itself; otherwise a client could grow the sums by inventing models. The texts are cut so that the longest
# key of each table fits into its index; real ones are shorter.
DIMENSIONS = {
    "gateway": "left(coalesce(gateway, ''), 100)",
    "endpoint": "left(endpoint, 100)",
    "model": "left(coalesce(model_served, ''), 300)",
    "key_id": "left(key_id, 100)",
    "outcome": "outcome",
    "error_type": "left(coalesce(error_type, ''), 100)",
}

TABLES = {
    "outcome_usage": ["gateway", "endpoint", "outcome", "error_type"],
    "model_usage": ["gateway", "endpoint", "model"],
    "latency_usage": ["gateway", "endpoint", "metric"],
}

PARTITIONS = """SELECT CAST(inhrelid AS regclass), CAST(right(relname, 8) AS date) FROM pg_inherits
    JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = to_regclass('activity') ORDER BY 2"""

# How long the later code keeps minutes of keys and models, and hours; older ones would only be deleted again.
MINUTES_KEPT, HOURS_KEPT = "3 days", "32 days"


def upgrade() -> None:
    op.execute(f"SELECT pg_advisory_xact_lock({INSERT_LOCK})")
    _create_sums()
    _create_deltas()
    _copy_sums_of_all_requests()
    for partition, day in op.get_bind().execute(sa.text(PARTITIONS)).all():
        # A statement for each day and table stays below the statement timeout.
        _count_day(partition, day)
    # A reader that keeps the table for a while, such as a dump, must not undo all of the above.
    op.execute("SET LOCAL lock_timeout = '60s'")
    op.add_column("activity", sa.Column("worker_id", sa.Text(), comment=WORKER_ID_COMMENT))
    op.get_bind().exec_driver_sql(_trigger_function())
    op.execute(
        "CREATE TRIGGER count_activity AFTER INSERT ON activity REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION count_activity()"
    )


def downgrade() -> None:
    op.execute(f"SELECT pg_advisory_xact_lock({INSERT_LOCK})")
    op.execute("DROP TRIGGER count_activity ON activity")
    op.execute("DROP FUNCTION count_activity()")
    _fold_into_earlier_sums()
    for name in ["rollup_delta", "key_presence", *reversed(TABLES)]:
        op.drop_table(name)
    op.drop_column("activity", "worker_id")


WORKER_ID_COMMENT = "the worker whose journal the row came from; NULL for rows of code before this column"


def _create_sums() -> None:
    for name, dimensions in TABLES.items():
        measures = _histogram() if name == "latency_usage" else _sums()
        _create_by_level(name, [_subject()], [_text(dimension) for dimension in dimensions], measures)
        for level in ("minute", "hour"):
            # Finds what is old among all keys and models; the primary key does so for all requests.
            op.execute(f"CREATE INDEX ON {name}_{level} (start) WHERE subject <> ''")
    _create_by_level("key_presence", [], [_text("gateway"), _text("endpoint"), _text("key_id")], [])


def _create_by_level(name: str, before: list[sa.Column], after: list[sa.Column], measures: list[sa.Column]) -> None:
    columns = [_text("level"), *before, sa.Column("start", sa.DateTime(timezone=True), nullable=False), *after]
    op.create_table(
        name,
        *columns,
        *measures,
        sa.PrimaryKeyConstraint(*[column.name for column in columns], name=f"pk_{name}"),
        postgresql_partition_by="LIST (level)",
    )
    for level, fillfactor in FILLFACTORS.items():
        op.execute(
            f"CREATE TABLE {name}_{level} PARTITION OF {name} FOR VALUES IN ('{level}') "
            f"WITH (fillfactor = {fillfactor})"
        )


def _create_deltas() -> None:
    buckets = sa.ARRAY(sa.SmallInteger())
    op.create_table(
        "rollup_delta",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        *[_text(name) for name in DIMENSIONS],
        sa.Column("in_old_family", sa.Boolean(), nullable=False, comment="whether usage_rollup etc. have it already"),
        *_sums(),
        sa.Column("ttft_buckets", buckets, nullable=False, comment="one for each request with the time"),
        sa.Column("duration_buckets", buckets, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rollup_delta"),
    )


def _trigger_function() -> str:
    sums = {name: expression.format(fast=FAST) for name, expression in SUMS.items()}
    buckets = {
        f"{metric}_buckets": f"coalesce(array_agg({BUCKET.format(f'{metric}_ms')}) "
        f"FILTER (WHERE {metric}_ms IS NOT NULL AND {TIMED}), '{{}}')"
        for metric in ("ttft", "duration")
    }
    columns = {"minute": _start("minute"), **DIMENSIONS, "in_old_family": "worker_id IS NULL", **sums, **buckets}
    return f"""
CREATE FUNCTION count_activity() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO rollup_delta ({", ".join(columns)})
    SELECT {", ".join(columns.values())}
    FROM inserted GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
    RETURN NULL;
END
$function$"""


def _copy_sums_of_all_requests() -> None:
    sums = ", ".join(SUMS)
    op.execute(f"""
        INSERT INTO outcome_usage (level, subject, start, gateway, endpoint, outcome, error_type, {sums})
        SELECT level, '', start, gateway, '{ENDPOINT}', outcome, error_type, {sums} FROM usage_rollup""")
    op.execute(f"""
        INSERT INTO model_usage (level, subject, start, gateway, endpoint, model, {sums})
        SELECT level, '', start, gateway, '{ENDPOINT}', model, {sums} FROM model_rollup""")
    op.execute(f"""
        INSERT INTO model_usage (level, subject, start, gateway, endpoint, model, {sums})
        SELECT 'day', concat('key', chr(58), key_id), CAST(day AS timestamp) AT TIME ZONE 'UTC', gateway, '{ENDPOINT}',
            model, {sums} FROM key_usage""")
    op.execute(f"""
        INSERT INTO latency_usage (level, subject, start, gateway, endpoint, metric, buckets, counts)
        SELECT level, '', start, gateway, '{ENDPOINT}', metric, buckets, counts FROM latency_rollup""")
    op.execute(f"""
        INSERT INTO key_presence (level, start, gateway, endpoint, key_id)
        SELECT level, start, gateway, '{ENDPOINT}', key_id FROM key_seen""")


def _count_day(partition: str, day: object) -> None:
    """Counts a day's rows by key and model. No other day has the same minutes, so that nothing is added up twice."""
    sums = [f"{expression.format(fast=FAST)} AS {name}" for name, expression in SUMS.items()]
    # key_usage had the days of each key.
    wanted = {"outcome_usage": "true", "model_usage": "kind = 'key' AND level <> 'day'"}
    for name, condition in wanted.items():
        dimensions = ", ".join(TABLES[name])
        op.execute(f"""
            INSERT INTO {name} (level, subject, start, {dimensions}, {", ".join(SUMS)})
            SELECT level, subject, start, {dimensions}, {", ".join(sums)}
            FROM {_rows_by_subject(partition, day)} WHERE {condition}
            GROUP BY level, subject, start, {dimensions}""")
    op.execute(f"""
        INSERT INTO latency_usage (level, subject, start, gateway, endpoint, metric, buckets, counts)
        SELECT level, subject, start, gateway, endpoint, metric,
            array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket)
        FROM (
            SELECT level, subject, start, gateway, endpoint, metric, {BUCKET.format("ms")} AS bucket, count(*) AS count
            FROM {_rows_by_subject(partition, day)}
            CROSS JOIN LATERAL (VALUES ('ttft', ttft_ms), ('duration', duration_ms)) AS metrics (metric, ms)
            WHERE ms IS NOT NULL AND {TIMED} GROUP BY 1, 2, 3, 4, 5, 6, 7) AS histogram
        GROUP BY 1, 2, 3, 4, 5, 6""")


def _rows_by_subject(partition: str, day: object) -> str:
    """Returns a FROM item: the day's rows once for each level and for the key and the model of the row."""
    others = "outcome, cost_kind, cost_usd, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens"
    named = ", ".join(f"{expression} AS {name}" for name, expression in DIMENSIONS.items() if name != "outcome")
    return f"""
        (SELECT {named}, {others}, tokens_per_second, ttft_ms, duration_ms, started_at FROM {partition}) AS counted
        CROSS JOIN LATERAL (VALUES ('key', key_id), ('model', model)) AS kinds (kind, named)
        CROSS JOIN LATERAL (SELECT concat(kind, chr(58), named) AS subject) AS subjects
        JOIN LATERAL (VALUES
            ('minute', {_start("minute")}, DATE '{day}' >= now() - interval '{MINUTES_KEPT}'),
            ('hour', {_start("hour")}, DATE '{day}' >= now() - interval '{HOURS_KEPT}'),
            ('day', {_start("day")}, true)) AS levels (level, start, is_kept) ON is_kept AND named <> ''"""


def _start(level: str) -> str:
    return f"date_trunc('{level}', started_at, 'UTC')"


def _fold_into_earlier_sums() -> None:
    """Adds the deltas that the earlier sums do not have, so that the earlier code goes on from exact numbers."""
    pending = "rollup_delta WHERE NOT in_old_family"
    levels = """CROSS JOIN LATERAL (VALUES
        ('minute', minute), ('hour', date_trunc('hour', minute, 'UTC')), ('day', date_trunc('day', minute, 'UTC'))
        ) AS levels (level, start)"""
    source = f"(SELECT *, CAST(minute AT TIME ZONE 'UTC' AS date) AS day FROM {pending}) AS pending"
    for table, key, by_level in [
        ("usage_rollup", "level, start, gateway, outcome, error_type", levels),
        ("model_rollup", "level, start, gateway, model", levels),
        ("key_usage", "key_id, day, gateway, model", ""),
    ]:
        op.execute(f"""
            INSERT INTO {table} ({key}, {", ".join(SUMS)})
            SELECT {key}, {", ".join(f"sum({name})" for name in SUMS)} FROM {source} {by_level} GROUP BY {key}
            ON CONFLICT ({key}) DO UPDATE SET
                {", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)}""")
    op.execute(f"""
        INSERT INTO key_seen (level, start, gateway, key_id)
        SELECT DISTINCT level, start, gateway, key_id FROM {source} {levels} ON CONFLICT DO NOTHING""")
    op.execute(f"""
        INSERT INTO latency_rollup (level, start, gateway, metric, buckets, counts)
        SELECT level, start, gateway, metric, array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket)
        FROM (SELECT level, start, gateway, metric, bucket, count(*) AS count FROM {source} {levels}
            CROSS JOIN LATERAL (
                SELECT 'ttft', unnest(ttft_buckets) UNION ALL SELECT 'duration', unnest(duration_buckets)
            ) AS measured (metric, bucket)
            GROUP BY level, start, gateway, metric, bucket) AS histogram
        GROUP BY level, start, gateway, metric
        ON CONFLICT (level, start, gateway, metric) DO UPDATE SET (buckets, counts) = (
            SELECT array_agg(bucket ORDER BY bucket), array_agg(count ORDER BY bucket) FROM (
                SELECT bucket, CAST(sum(count) AS bigint) AS count FROM (
                    SELECT * FROM unnest(latency_rollup.buckets, latency_rollup.counts)
                    UNION ALL SELECT * FROM unnest(excluded.buckets, excluded.counts)) AS parts (bucket, count)
                GROUP BY bucket) AS merged)""")


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=False)


def _subject() -> sa.Column:
    # Compared byte by byte, so that the rows of one kind of subject are neighbours in every database.
    return sa.Column("subject", sa.Text(collation="C"), nullable=False)


def _histogram() -> list[sa.Column]:
    buckets, counts = sa.ARRAY(sa.SmallInteger()), sa.ARRAY(sa.BigInteger())
    return [
        sa.Column("buckets", buckets, nullable=False, comment="ascending; see app/db/histogram.py"),
        sa.Column("counts", counts, nullable=False, comment="of the buckets, in their order"),
    ]


def _sums() -> list[sa.Column]:
    comments = {
        "cost_exact": "USD",
        "cost_estimated": "USD",
        "speed_tokens": "completion tokens of rows with a speed",
        "speed_ms": "their generation time",
    }
    types = {"cost_exact": sa.Numeric(), "cost_estimated": sa.Numeric(), "speed_ms": sa.Double()}
    return [
        sa.Column(name, types.get(name, sa.BigInteger()), nullable=False, comment=comments.get(name)) for name in SUMS
    ]
