"""Checks PostgreSQL: that it answers and is migrated, its clock, whether the records balance, keys and prices."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from app.config import get_direct_url
from app.db import DatabaseError, describe_error, read_connection
from app.db.clock import read_clocks
from app.db.examination import select_expiring_keys, select_server_version, select_unpriced_models
from app.db.schema import SchemaError, compare_schema, select_schema_state
from app.doctor.results import Result, fail, ok, warn
from app.runtime import get_settings
from app.server.boot_checks import BOOT_CHECKS
from app.server.database_addresses import check_addresses
from app.services.journal import describe_other_directory, select_balance, select_host_reports

# The oldest version that tests run on (tests/db/test_versions.py), and the clock difference from which it is reported.
LEAST_VERSION = 150_000
_MOST_SKEW_S = 5.0
_MOST_LISTED = 5


def check_database(mistaken: Collection[str]) -> Iterator[Result]:
    """Yields the results; for a database that does not answer, or an address that leads elsewhere, only that one.

    Args:
        mistaken: the names of unreadable settings. An address among them was not tried.
    """
    is_tried = "DATABASE_URL" not in mistaken
    problems = [BOOT_CHECKS[name]() for name in ("database", "direct_database") if is_tried or name != "database"]
    found = [problem.text for problem in problems if problem is not None]
    for text in found:
        yield fail("database", f"{text[0].upper()}{text[1:]}")
    if found or not is_tried:
        return
    try:
        yield from _check_server()
        yield from _check_tables()
        yield from _check_records()
        other = describe_other_directory(select_host_reports(), get_settings().journal_dir)
    except (DatabaseError, SchemaError) as error:
        reason = str(error) if isinstance(error, SchemaError) else describe_error(error)
        yield fail("database", f"a query failed: {reason}. Look into the log of PostgreSQL.")
        return
    if other is not None:
        yield warn("journal_directory", other)


def check_migration_addresses() -> Iterator[Result]:
    """Yields the problems of the addresses for migrations, for the command that migrates.

    It fails where the gateway would not start. It reports nothing about a database that does not answer, or warns.
    """
    for problem in check_addresses():
        make = fail if problem.blocks == "start" else warn
        yield make("database", f"{problem.text[0].upper()}{problem.text[1:]}")


def _check_server() -> Iterator[Result]:
    with read_connection() as connection:
        version, clocks, schema = (
            select_server_version(connection), read_clocks(connection), select_schema_state(connection)
        )  # fmt: skip
    if version < LEAST_VERSION:
        yield warn("database", f"PostgreSQL {version // 10_000} is older than any that was tested. Use 15 or later.")
    else:
        yield ok("database", f"PostgreSQL {version // 10_000} answers, its schema is {schema.state} ({schema.current})")
    skew_s = clocks.skew.total_seconds()
    if abs(skew_s) > _MOST_SKEW_S:
        where = "ahead of" if skew_s > 0 else "behind"
        yield warn(
            "clock",
            f"this machine's clock is {abs(skew_s):.0f} s {where} PostgreSQL's, so records count in other minutes."
            " Synchronise both (NTP).",
        )
    else:
        yield ok("clock", f"within {abs(skew_s):.1f} s of PostgreSQL's")


def _check_tables() -> Iterator[Result]:
    url = get_direct_url(get_settings())
    assert url is not None
    with read_connection() as connection:
        if select_schema_state(connection).state != "current":
            return
    differences = compare_schema(url)
    if differences:
        yield warn("tables", f"{len(differences)} differences; `bin/gateway db check` lists them.")
    else:
        yield ok("tables", "as the code expects them")


def _check_records() -> Iterator[Result]:
    balance = select_balance()
    if not balance.balanced:
        yield fail(
            "records",
            "requests have no record. `GET /api/activity/integrity` says which workers had them.",
        )
    elif balance.missing_workers:
        yield warn(
            "records",
            f"workers that ended or hang with records that are not delivered: {balance.missing_workers}. Start the"
            " gateway on their hosts; `GET /api/activity/integrity` names them.",
        )
    else:
        yield ok("records", "every request that was begun is accounted for")
    with read_connection() as connection:
        unpriced = select_unpriced_models(connection, _MOST_LISTED)
        expiring = select_expiring_keys(connection, _MOST_LISTED)
    if unpriced:
        yield warn("costs", f"models of the last 7 days lack a price: {', '.join(unpriced)}. Add them to PRICE_FILE.")
    else:
        yield ok("costs", "all models used in the last 7 days have a price")
    for key in expiring:
        yield warn(
            "keys",
            f"the key {key.id} ({key.name}) expires at {key.expires_at:%Y-%m-%d %H:%M}. Replace it"
            f" (`bin/gateway keys rotate {key.id}`) or extend it.",
        )
