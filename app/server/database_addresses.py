"""Checks DATABASE_URL and DATABASE_DIRECT_URL before the start.

A healthy database is recognised over a plain connection, because importing SQLAlchemy takes longer than all checks
together. If something is wrong with an address, the code of `/ready` and of the migrations describes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, Literal, NamedTuple

import psycopg2

from app.database_session import OPTIONS, SESSION, VANISHED_SERVER, get_libpq_address
from app.revisions import get_head
from app.runtime import get_settings
from app.server.problems import Problem

_URL, _DIRECT_URL = "DATABASE_URL", "DATABASE_DIRECT_URL"

# If connecting takes longer, the full check asks again and describes the problem.
_CONNECT_TIMEOUT_S = 2


class _Identity(NamedTuple):
    """The database behind an address: its name, its server's start time, which is unique to a server, and its state."""

    name: str
    server_started: str
    is_replica: bool
    limit: str


def check_database() -> Problem | None:
    """Checks that the database answers, is migrated, accepts writes and keeps the options of a connection.

    An unavailable database does not block the start, nor does a replica, which may be about to take over.
    """
    settings = get_settings()
    is_pooled = settings.database_direct_url is not None
    seen = None if settings.database_url is None else _ask(settings.database_url, is_pooled=is_pooled)
    if seen is None or seen[0] != get_head():
        from app.services.health import check_database as check_all

        finding = check_all()
        if finding.problem is not None:
            return Problem(finding.problem, blocks="start" if finding.blocks == "boot" else "reload", settings=(_URL,))
    if seen is not None and seen[2]:
        return _make_replica_problem(_URL, "records wait in the journal", blocks="reload")
    return _find_lost_options(seen[1]) if seen is not None and not is_pooled else None


def check_addresses() -> Iterator[Problem]:
    """Yields the problems of the addresses, whatever the database contains: for commands that migrate it.

    A database that does not answer is not reported; the command reports that by itself.
    """
    settings = get_settings()
    if settings.database_url is not None and settings.database_direct_url is None:
        try:
            main = _identify(settings.database_url, OPTIONS)
        except psycopg2.Error as error:
            from app.services.health import explain_database_error

            finding = explain_database_error(error)
            if finding.blocks == "boot":
                yield Problem(str(finding.problem), blocks="start", settings=(_URL,))
            return
        problem = _make_replica_problem(_URL, "migrations fail") if main.is_replica else _find_lost_options(main.limit)
    else:
        problem = check_direct_database()
    if problem is not None:
        yield problem


def _find_lost_options(limit: str) -> Problem | None:
    """Returns the problem of a pooler at DATABASE_URL that drops options; None if our statement timeout arrived."""
    if limit == SESSION["statement_timeout"]:
        return None
    return _make_pooler_problem(_URL, f"Set {_DIRECT_URL} too, which leads")


def _make_replica_problem(setting: str, effect: str, blocks: Literal["start", "reload"] = "start") -> Problem:
    return Problem(
        f"{setting} leads to a replica, which takes no writes, so {effect}. Set it to the server that takes writes, or"
        " name all servers with target_session_attrs=read-write: docs/hosts.md.",
        blocks=blocks,
        settings=(setting,),
    )


def _make_pooler_problem(setting: str, remedy: str) -> Problem:
    return Problem(
        f"{setting} leads to a pooler that drops the options of a connection (ignore_startup_parameters), so queries"
        f" have no time limit and no time zone. {remedy} to PostgreSQL itself: docs/hosts.md.",
        blocks="reload",
        settings=(_URL, _DIRECT_URL),
    )


def check_direct_database() -> Problem | None:
    """Checks that DATABASE_DIRECT_URL, if it is set, leads to the same database as DATABASE_URL, past any pooler."""
    settings = get_settings()
    if settings.database_direct_url is None:
        return None
    try:
        direct = _identify(settings.database_direct_url, OPTIONS)
    except psycopg2.Error as error:
        from app.services.health import explain_database_error

        finding = explain_database_error(error, _DIRECT_URL)
        if finding.blocks == "boot":
            return Problem(str(finding.problem), blocks="start", settings=(_DIRECT_URL,))
        text = f"migrations and the dropping of old records fail: {finding.problem}"
        return Problem(text, blocks="reload", settings=(_DIRECT_URL,))
    if direct.limit != SESSION["statement_timeout"]:
        return _make_pooler_problem(_DIRECT_URL, "It must lead")
    if direct.is_replica:
        return _make_replica_problem(_DIRECT_URL, "migrations and the dropping of old records fail")
    try:
        main = None if settings.database_url is None else _identify(settings.database_url)
    except psycopg2.Error:
        main = None  # `check_database` reports the reason.
    if main is None or direct[:2] == main[:2]:
        return None
    return Problem(
        f"{_DIRECT_URL} leads to another database ({direct.name}) than {_URL} ({main.name}), and migrations would go"
        f" there. Set it to the server behind {_URL}, with the same name of the database.",
        blocks="start",
        settings=(_URL, _DIRECT_URL),
    )


def _ask(address: str, *, is_pooled: bool) -> tuple[str | None, str, bool] | None:
    """Returns the migration, the statement time limit, and whether it is a replica; None if anything is wrong."""
    sql = "SELECT max(version_num), current_setting('statement_timeout'), pg_is_in_recovery() FROM alembic_version"
    try:
        migration, limit, is_replica = _select(address, sql, None if is_pooled else OPTIONS)
    except psycopg2.Error:
        return None
    return migration, limit, is_replica


def _identify(address: str, options: str | None = None) -> _Identity:
    sql = """
        SELECT current_database(), pg_postmaster_start_time()::text, pg_is_in_recovery(),
            current_setting('statement_timeout')"""
    return _Identity(*_select(address, sql, options))


def _select(address: str, sql: str, options: str | None) -> tuple[Any, ...]:
    more: dict[str, Any] = VANISHED_SERVER | {"connect_timeout": _CONNECT_TIMEOUT_S}
    more |= {} if options is None else {"options": options}
    with (
        closing(psycopg2.connect(get_libpq_address(address), **more)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
        row: tuple[Any, ...] = cursor.fetchone() or ()
        return row
