"""PostgreSQL: every SQL statement of the gateway. Rows are written unchanged; services decide their contents.

    engine.py     the connection pool of a process         errors.py    its errors, and the time limit on waiting
    schema.py     migrations                               tables.py, rollup_tables.py  the tables
    keys.py       gateway keys                             live_keys.py  all that work, with their limits
    limit_tables.py  the tables of limits                  subjects.py, budgets.py  who may use how much
    audit.py      the changes by operators                budget_warnings.py  messages that wait to be sent
    activity.py   the records of requests                  key_sums.py  sums by key, and the keys' owners
    insert_sql.py the statement that writes records        partitions.py  their daily partitions
    ledger.py     each worker's counts of requests         sums.py, rollups.py, day_usage.py  sums of records
    fold.py       writes these sums                        rollup_pruning.py  deletes old ones
    workers.py    which host runs a worker, and its end    aliases.py    names that operators gave to models
    windows.py    time windows as runs of rows             rollup_rows.py  the rows of a window
    histogram.py  histograms that can be added up          recent_quality.py  of each model, lately
    activity_by_id.py, request_ids.py  a record by an id  clock.py      PostgreSQL's clock, beside this machine's
    catalog.py    the stored lists of providers            repricing.py  costs that are computed later
    sessions.py   sessions of the dashboard                retries.py    retries of SDKs, and their originals
    bills.py      providers' bills (bill_tables.py)        day_outcomes.py  the outcomes of a day's requests

Most callers need only the names below. Statements are imported from the module of their table.
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
