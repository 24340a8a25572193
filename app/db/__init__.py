"""PostgreSQL: every SQL statement of the gateway. Rows are written unchanged; services decide their contents.

Most callers need only the names below. Statements are imported from the module of their table:

engine.py: the connection pool of a process (connection_check.py); errors.py: its errors, and the time limit on waiting
schema.py: migrations; tables.py: the tables, beside those in files below; columns.py: their comments as descriptions
clock.py: PostgreSQL's clock, beside this machine's; function_calls.py: database functions that take and return JSON
keys.py: gateway keys; live_keys.py: all that work, with their limits; last_used.py, key_costs.py: their use and cost
limit_tables.py: tables of limits; subjects.py, budgets.py: who may use how much; budget_warnings.py: unsent messages
leases.py, rates.py: workers' draws from limits; lease_merging.py: old draws; lease_sums.py: operators' view of draws
charge_check.py: charges beside records; audit.py: changes by operators; kept_answers.py: for an Idempotency-Key
activity.py: the records of requests; insert_sql.py: the statement that writes them; partitions.py: their days
activity_pages.py: reads pages of records; activity_by_id.py: finds one (request_ids.py); retries.py: SDKs' retries
ledger.py: each worker's counts of requests; reconciliation.py, recounting.py: correct them and the sums after a restore
workers.py: which host runs a worker, and its end; hosts.py: the hosts, and those that are gone
rollup_tables.py: tables of sums; fold.py, failed_attempts.py: write them; rollup_pruning.py: deletes old sums
sums.py, rollups.py, day_usage.py, day_outcomes.py, key_sums.py: read sums; windows.py, rollup_rows.py: a window's rows
histogram.py: histograms that can be added up; recent_quality.py: of each model, lately; examination.py: for the doctor
catalog.py: stored lists of providers (catalog_tables.py); repricing.py: costs computed later; aliases.py: own names
bills.py: providers' bills (bill_tables.py); stated_costs.py: costs in answers; sessions.py: sessions of the dashboard
"""

from app.db.engine import (
    Connection,
    Database,
    create_engine_for,
    get_engine,
    identify_database,
    read_connection,
    write_connection,
)
from app.db.errors import DatabaseError, describe_error, describe_refusal, time_limit

# fmt: off
__all__ = [
    "Connection", "Database", "DatabaseError", "create_engine_for", "describe_error",
    "describe_refusal", "get_engine", "identify_database", "read_connection", "time_limit", "write_connection",
]
# fmt: on
