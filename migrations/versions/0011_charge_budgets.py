"""Adds what a request is charged to budgets, and the trigger that sums it up by period and worker.

A row with periods is charged to each of them, in the transaction that inserts it and once, as count_activity (0007)
counts it. Code before this migration writes no periods, so its rows are charged to no budget.

The budget is found by the period's id, whose upper half is the budget's (app/db/leases.py): a period has no row yet
if requests were served while the database was away.

The part of a charge that is the row's own cost is exact or estimated; the rest, or all of it where the cost is not
known, is the ceiling that was reserved. Every amount is bounded, because a charge must never keep a row from being
written, and the sums stay within their type.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

COLUMNS = {
    "charged_usd": (sa.Numeric(30, 12), "what the request was charged to budgets in USD; NULL without limits"),
    "charged_tokens": (sa.BigInteger(), "the same in tokens"),
    "budget_periods": (sa.ARRAY(sa.BigInteger()), "the periods (budget_period.id) that it was charged to"),
}

# No request costs as much, and a million of them fit into a sum.
MOST_USD, MOST_TOKENS, MOST_SUM = 10**9, 10**12, 10**18 - 1

FUNCTION = f"""
CREATE FUNCTION charge_budgets() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO budget_charge AS charge (period_id, worker_id, exact, estimated, ceiling, requests)
    SELECT period_id, worker_id,
        coalesce(sum(known) FILTER (WHERE NOT is_estimate), 0),
        coalesce(sum(known) FILTER (WHERE is_estimate), 0),
        coalesce(sum(charged - known), 0), count(*)
    FROM (
        SELECT period_id, worker_id, is_estimate, charged, least(used, charged) AS known
        FROM (
            SELECT reserved.id AS period_id, coalesce(worker_id, 'none') AS worker_id,
                CASE unit WHEN 'usd' THEN cost_kind = 'estimated' WHEN 'tokens' THEN usage_source = 'counted'
                    ELSE false END AS is_estimate,
                CASE unit WHEN 'usd' THEN greatest(0, least(coalesce(charged_usd, 0), {MOST_USD}))
                    WHEN 'tokens' THEN greatest(0, least(coalesce(charged_tokens, 0), {MOST_TOKENS}))
                    ELSE 1 END AS charged,
                CASE unit WHEN 'usd' THEN ceil(coalesce(cost_usd, 0) * 1000000000000) * 0.000000000001
                    WHEN 'tokens' THEN coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)
                    ELSE 1 END AS used
            FROM inserted
            CROSS JOIN LATERAL (SELECT DISTINCT unnest(budget_periods) AS id) AS reserved
            JOIN budget ON budget.id = reserved.id >> 32
            WHERE budget_periods IS NOT NULL) AS charges) AS parts
    GROUP BY period_id, worker_id
    ORDER BY period_id, worker_id
    ON CONFLICT (period_id, worker_id) DO UPDATE SET
        exact = least(charge.exact + excluded.exact, {MOST_SUM}),
        estimated = least(charge.estimated + excluded.estimated, {MOST_SUM}),
        ceiling = least(charge.ceiling + excluded.ceiling, {MOST_SUM}),
        requests = charge.requests + excluded.requests;
    RETURN NULL;
END
$function$"""


def upgrade() -> None:
    # A reader that keeps the table for a while, such as a dump, must not hold up all writers behind this.
    op.execute("SET LOCAL lock_timeout = '60s'")
    for name, (kind, comment) in COLUMNS.items():
        op.add_column("activity", sa.Column(name, kind, comment=comment))
    op.get_bind().exec_driver_sql(FUNCTION)
    op.execute(
        "CREATE TRIGGER charge_budgets AFTER INSERT ON activity REFERENCING NEW TABLE AS inserted "
        "FOR EACH STATEMENT EXECUTE FUNCTION charge_budgets()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER charge_budgets ON activity")
    op.execute("DROP FUNCTION charge_budgets()")
    for name in reversed(COLUMNS):
        op.drop_column("activity", name)
