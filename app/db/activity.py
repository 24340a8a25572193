"""The table activity: inserts rows in batches. activity_pages.py reads them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from sqlalchemy import Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from app.db.insert_sql import insert_activity_sql, select_days_sql
from app.db.ledger import UPSERT_LEDGER, LedgerLine, encode_ledger_line
from app.db.partitions import insert_partitions

# The class of PostgreSQL's errors for values that are too long or too deep. The driver treats them like errors of an
# unavailable database, but sending the rows again would never help.
_PROGRAM_LIMIT = "54"

_INSERT = insert_activity_sql()
_INSERT_WITH_LEDGER = insert_activity_sql(also=UPSERT_LEDGER)
_SELECT_DAYS = select_days_sql()


class UnacceptableRows(Exception):
    """PostgreSQL will never accept at least one row of the batch; no row of the batch was written.

    The caller repairs the rows and sends them again.
    """


def insert_activity(engine: Engine, rows: Sequence[bytes], line: LedgerLine | None = None) -> int:
    """Writes rows and counts them in one transaction, and returns how many rows were new.

    Rows that the table already has, by started_at and request_id, and repeated rows of the batch are skipped, so a
    batch whose result is unknown can be sent again. This holds while the partition of their day exists: a batch that is
    repeated after retention has dropped its day is counted twice.

    Args:
        rows: JSON objects in UTF-8 with the column names of activity. Absent names are NULL, unknown ones are
            ignored, times are ISO 8601 with an offset. Texts are truncated to MAX_NAME_CHARACTERS.
        line: the ledger line of the worker that ships the rows, written in the same transaction. Its id becomes the
            worker_id of the rows.

    Raises:
        UnacceptableRows: a row is malformed, out of range, or holds a NUL character.
        DatabaseError: the database is unavailable, slow or locked; send the batch again later.
    """
    try:
        parameters = {"rows": (b"[" + b",".join(rows) + b"]").decode()}
        if line is not None:
            parameters["ledger"] = encode_ledger_line(line)
        try:
            return _insert(engine, parameters)
        except IntegrityError as error:
            if not _is_missing_partition(error):
                raise
        _insert_missing_partitions(engine, parameters)
        return _insert(engine, parameters)
    except (DataError, IntegrityError) as error:
        raise UnacceptableRows(_reason(error)) from error
    except OperationalError as error:
        if not str(getattr(error.orig, "pgcode", None)).startswith(_PROGRAM_LIMIT):
            raise
        raise UnacceptableRows(_reason(error)) from error
    except UnicodeDecodeError as error:
        raise UnacceptableRows("a row is not UTF-8") from error


def _insert(engine: Engine, parameters: dict[str, str]) -> int:
    # The statement commits itself, so that its locks do not wait for a COMMIT from a client that may have died.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        statement = _INSERT_WITH_LEDGER if "ledger" in parameters else _INSERT
        return int(connection.exec_driver_sql(statement, parameters).scalar_one())


def _is_missing_partition(error: IntegrityError) -> bool:
    # PostgreSQL reports a missing partition as a check violation without a constraint name.
    diagnostics = getattr(error.orig, "diag", None)
    return getattr(error.orig, "pgcode", None) == "23514" and not getattr(diagnostics, "constraint_name", None)


def _reason(error: DBAPIError) -> str:
    # Only the first line: the details quote the row, and SQLAlchemy's own text repeats the whole statement.
    return str(error.orig).strip().partition("\n")[0]


def _insert_missing_partitions(engine: Engine, parameters: dict[str, str]) -> None:
    with engine.connect() as connection:
        days: list[date] = list(connection.exec_driver_sql(_SELECT_DAYS, parameters).scalars())
    with engine.begin() as connection:
        insert_partitions(connection, days)
