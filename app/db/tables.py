"""The tables for SQLAlchemy. `migrations/` creates them, and `bin/gateway db check` compares the two.

    api_key         one gateway key: its digest, never the key itself
    activity        one inference request; partitioned by UTC day (app/db/partitions.py)
    worker_ledger   each worker's counts of its requests (app/db/ledger.py)
    worker          which host runs a worker, and how it ended (app/db/workers.py)
    model_alias     a name that the operator gave to some models (app/db/aliases.py)
    unlinked_retry  retries of SDKs that wait to be linked to their originals (app/db/retries.py)

app/db/limit_tables.py has the tables of limits, and app/db/rollup_tables.py those of sums over activity. A trigger on
activity writes the sums. It exists only in the migrations: SQLAlchemy's metadata has neither triggers nor functions.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

OUTCOMES = (
    "ok",
    "client_gone",
    "upstream_error",
    "upstream_cut",
    "upstream_timeout",
    "rejected",
    "gateway_shutdown",
    "lost",
)
USAGE_SOURCES = ("provider", "counted", "none")
COST_KINDS = ("exact", "estimated", "unknown")
ALIAS_SORTS = ("price", "latency", "throughput")
CLOSINGS = ("drained", "left_rows", "adopted", "written_off", "reconciled")

# Bounds far above real values. Without them, a provider's wrong number could bring a rollup's sum near the limit of its
# type, and then every later insert would fail. 10^12 tokens are a century of one fast stream, 10^11 ms are three years.
MAX_TOKENS = 10**12
MAX_MS = 10**11

# An error message has no index, and a provider's sentence rarely fits into 200 characters.
MAX_MESSAGE_CHARACTERS = 300

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def one_of(column: str, words: tuple[str, ...]) -> CheckConstraint:
    """Returns the constraint that a column of texts has one of these words, or NULL."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(word) for word in words)})", name=column)


def _between(column: str, maximum: int) -> CheckConstraint:
    return CheckConstraint(f"{column} BETWEEN 0 AND {maximum}", name=column)


api_key = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True, comment="public id, shown in lists and logs"),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True, comment="SHA-256 of the whole key"),
    Column("last_four", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revoked_at", DateTime(timezone=True)),
    Column(
        "holder_id",
        Text,
        ForeignKey("subject.id", name="fk_api_key_holder_id"),
        index=True,
        comment="a subject; NULL: no limits of its own",
    ),
    Column("expires_at", DateTime(timezone=True)),
    Column("replaced_by", Text, comment="the id of the key that it was rotated to"),
    Column("is_operator", Boolean, nullable=False, server_default="false"),
)

activity = Table(
    "activity",
    metadata,
    Column("request_id", Uuid),
    Column("started_at", DateTime(timezone=True)),
    Column("key_id", Text, nullable=False, comment="api_key.id, or env for the key of the environment"),
    Column("gateway", Text),
    Column("endpoint", Text, nullable=False),
    Column("model_requested", Text),
    Column("model_served", Text),
    Column("stream", Boolean, nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("usage_source", Text, nullable=False),
    Column("cost_usd", Numeric(30, 15)),
    Column("cost_kind", Text, nullable=False),
    Column("price_source", Text),
    Column("price_date", Date),
    Column("duration_ms", Double),
    Column("ttft_ms", Double),
    Column("tokens_per_second", Double),
    Column("finish_reason", Text),
    Column("error_type", Text),
    Column("error_code", Text),
    Column("upstream_request_id", Text),
    Column("upstream_status", Integer),
    Column("attempts", JSONB(none_as_null=True)),
    Column("events", Integer),
    Column("bytes_out", BigInteger),
    Column("longest_gap_ms", Double),
    Column("client_retry", Integer),
    Column("client_request_id", Text, comment="x-request-id of the client"),
    Column("error_message", Text, comment="redacted, without the input that providers quote"),
    Column("error_param", Text),
    Column(
        "repaired", Text, comment="columns whose values PostgreSQL would have refused; they were changed or removed"
    ),
    # From this column, the trigger of migration 0007 can tell which code wrote the row.
    Column(
        "worker_id",
        Text,
        comment="the worker whose journal the row came from; NULL for rows of code before this column",
    ),
    # The trigger of migration 0011 adds the charge to each period.
    Column(
        "charged_usd", Numeric(30, 12), comment="what the request was charged to budgets in USD; NULL without limits"
    ),
    Column("charged_tokens", BigInteger, comment="the same in tokens"),
    Column("budget_periods", ARRAY(BigInteger), comment="the periods (budget_period.id) that it was charged to"),
    Column("body_digest", Text, comment="of the body of an SDK's request, keyed by the caller's gateway key"),
    Column("client_agent", Text, comment="User-Agent of the retry, on the retry and on the attempt that it repeats"),
    # Written after the row: WRITTEN_LATER of app/db/insert_sql.py.
    Column("retry_of", Uuid, comment="request_id of the attempt that this one repeats"),
    Column("retried_by", Uuid, comment="request_id of the retry that repeats this attempt"),
    Column(
        "repriced",
        JSONB(none_as_null=True),
        comment="what the cost was before it was computed later, when and why",
    ),
    Column("replay_of", Uuid, comment="the request whose kept answer this one got; NULL without"),
    Column("stated_cost_usd", Numeric(30, 15), comment="what the provider's answer said that it cost"),
    Column("trace_id", Text, comment="of the client's traceparent; NULL if there was none"),
    # The time comes first, so that the primary key read backwards is the order "newest first".
    PrimaryKeyConstraint("started_at", "request_id"),
    one_of("outcome", OUTCOMES),
    one_of("usage_source", USAGE_SOURCES),
    one_of("cost_kind", COST_KINDS),
    _between("prompt_tokens", MAX_TOKENS),
    _between("completion_tokens", MAX_TOKENS),
    _between("cached_tokens", MAX_TOKENS),
    _between("reasoning_tokens", MAX_TOKENS),
    _between("duration_ms", MAX_MS),
    _between("ttft_ms", MAX_MS),
    CheckConstraint("cost_usd >= 0", name="cost_usd"),
    # An unknown cost is NULL and never zero; a known one is exact or estimated.
    CheckConstraint("(cost_kind = 'unknown') = (cost_usd IS NULL)", name="cost_known"),
    postgresql_partition_by="RANGE (started_at)",
)


def activity_model() -> ColumnElement[str]:
    """Returns the model of a row for filters and counts: the one served or, without one, the one requested."""
    return func.coalesce(activity.c.model_served, activity.c.model_requested)


# These indexes omit request_id: few rows share a microsecond, and an incremental sort orders them.
Index("ix_activity_key_id_started_at", activity.c.key_id, activity.c.started_at)
Index("ix_activity_model_started_at", activity_model(), activity.c.started_at)
Index("ix_activity_gateway_started_at", activity.c.gateway, activity.c.started_at)
# Nearly every row is "ok" and is found by the primary key; this index is for the few others.
Index(
    "ix_activity_outcome_started_at",
    activity.c.outcome,
    activity.c.started_at,
    postgresql_where=activity.c.outcome != "ok",
)
# A request is also found by the ids of its client and its provider. The time puts the newest first if a client sends
# one id with several requests.
for _column in (activity.c.client_request_id, activity.c.upstream_request_id):
    Index(
        f"ix_activity_{_column.name}_started_at",
        _column,
        activity.c.started_at,
        postgresql_where=_column.is_not(None),
    )

# By this index, retries find the attempts that they repeat, and statistics find repeated attempts.
Index(
    "ix_activity_body_digest_started_at",
    activity.c.body_digest,
    activity.c.started_at,
    postgresql_where=activity.c.body_digest.is_not(None),
)
Index("ix_activity_retried_started_at", activity.c.started_at, postgresql_where=activity.c.retried_by.is_not(None))

unlinked_retry = Table(
    "unlinked_retry",
    metadata,
    Column("request_id", Uuid, primary_key=True),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

worker_ledger = Table(
    "worker_ledger",
    metadata,
    Column("worker_id", Text, primary_key=True, comment="the name of its directory in the journal"),
    Column("version", BigInteger, nullable=False, comment="counts up; the highest line is the newest"),
    Column("started", BigInteger, nullable=False, comment="requests begun"),
    Column("in_flight", BigInteger, nullable=False, comment="not ended yet"),
    Column("unshipped", BigInteger, nullable=False, comment="ended, and the row is on its way here"),
    Column("unrecorded", BigInteger, nullable=False, comment="ended without a row: the disk was full or broken"),
    Column("rejected", BigInteger, nullable=False, comment="rows that PostgreSQL refused; see rejected.jsonl"),
    Column("unsent", BigInteger, nullable=False, comment="begun by a worker that died before it asked a provider"),
    Column("direct", BigInteger, nullable=False, comment="rows that came from memory, past the journal"),
    Column("segment", BigInteger, nullable=False, comment="of the journal, and"),
    Column("byte_offset", BigInteger, nullable=False, comment="in it, before which all rows are here"),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

worker = Table(
    "worker",
    metadata,
    Column("worker_id", Text, primary_key=True, comment="as in worker_ledger"),
    Column("host", Text, comment="NULL, as all up to last_seen_at, if it died before it was registered"),
    Column("boot_id", Text, comment="changes when the host is restarted; '' where the host has none"),
    Column("pid", Integer, comment="its process id on the host"),
    Column("version", Text, comment="a digest of the gateway's code"),
    Column("journal_dir", Text, comment="the directory on the host that has its journal"),
    Column("started_at", DateTime(timezone=True)),
    Column("last_seen_at", DateTime(timezone=True)),
    Column("closed_at", DateTime(timezone=True)),
    Column("closed_how", Text, comment="see app/db/workers.py"),
    Column("state", JSONB(none_as_null=True), comment="what it said of itself when it was last seen; NULL if nothing"),
    one_of("closed_how", CLOSINGS),
    CheckConstraint("(closed_at IS NULL) = (closed_how IS NULL)", name="closed"),
)

# JSON in its original form, because the order of the names in a schema can matter to a provider.
model_alias = Table(
    "model_alias",
    metadata,
    Column("name", Text, primary_key=True, comment="in lower case"),
    Column("targets", JSON, nullable=False, comment="[[name, weight or null], …], in order"),
    Column("sort", Text, comment="by what to order the targets; NULL keeps their order"),
    Column("overrides", JSON, nullable=False, comment="body field → value"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    one_of("sort", ALIAS_SORTS),
)
