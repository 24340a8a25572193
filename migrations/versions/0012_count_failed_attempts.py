"""Counts the requests that a target failed and that then went to another one, by minute, provider and model.

A record counts for the provider and the model that ended it. If only these counted, a provider that fails every request
would look idle, because others serve them all. So a trigger adds the targets that failed before; the quality of models
(app/db/recent_quality.py) reads them together with the outcomes.

A request counts once for a target, however often it was tried there, and not at all for the target that ended it, whose
outcome the record has. Attempts that failed by the caller's fault (400, 413, 422) count for nobody, nor do those that
were never made, because the provider does not list the name. Rows of earlier code name no providers in their attempts.

The trigger compares texts and converts nothing, so that no attempt, whatever is in it, keeps a row from being written.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# The target that ended the request is the last one that was tried of those that the row may mean. The model of the row
# may have another form, because a response confirmed it, so its provider decides if no attempt has its model.
FUNCTION = """
CREATE FUNCTION count_failed_attempts() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO failed_attempt (minute, gateway, model, requests)
    SELECT date_trunc('minute', started_at, 'UTC'), failed.gateway, failed.model, count(*)
    FROM inserted CROSS JOIN LATERAL (
        SELECT left(entry ->> 'provider', 100) AS gateway, left(entry ->> 'model', 300) AS model
        FROM jsonb_array_elements(attempts) AS entry
        WHERE entry ->> 'error' IS NOT NULL AND entry ->> 'ms' IS NOT NULL
            AND entry ->> 'provider' IS NOT NULL AND entry ->> 'model' IS NOT NULL
            AND coalesce(entry ->> 'status', '') NOT IN ('400', '413', '422')
        EXCEPT
        (SELECT left(entry ->> 'provider', 100), left(entry ->> 'model', 300)
        FROM jsonb_array_elements(attempts) WITH ORDINALITY AS entries (entry, number)
        WHERE entry ->> 'provider' = inserted.gateway
        ORDER BY coalesce(entry ->> 'model' = model_served, false) DESC, number DESC LIMIT 1)) AS failed
    WHERE CASE jsonb_typeof(attempts) WHEN 'array' THEN jsonb_array_length(attempts) > 0 END
    GROUP BY 1, 2, 3;
    RETURN NULL;
END
$function$"""


def upgrade() -> None:
    op.create_table(
        "failed_attempt",
        # A key only because logical replication requires one; writers never wait for each other.
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False, comment="that it failed, and that another target ended"),
        sa.PrimaryKeyConstraint("id", name="pk_failed_attempt"),
    )
    # A reader that keeps the table for a while, such as a dump, must not hold up all writers behind this.
    op.execute("SET LOCAL lock_timeout = '60s'")
    op.get_bind().exec_driver_sql(FUNCTION)
    op.execute(
        "CREATE TRIGGER count_failed_attempts AFTER INSERT ON activity REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION count_failed_attempts()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER count_failed_attempts ON activity")
    op.execute("DROP FUNCTION count_failed_attempts()")
    op.drop_table("failed_attempt")
