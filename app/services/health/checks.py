"""The checks of the gateway's dependencies for `/ready`. app/server/boot_checks.py has the checks before the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from app.db import DatabaseError, describe_refusal, get_engine, time_limit
from app.db.errors import describe_outage
from app.db.schema import select_schema_state
from app.runtime import Component, Runtime, get_component, get_settings
from app.services.inference import get_open_breakers
from app.services.journal import get_journal_status
from app.services.keys import GRACE_S, get_keys_state
from app.services.models import get_catalog_states

# A load balancer asks every few seconds and waits only a few, so a slower database counts as unavailable.
_DATABASE_TIMEOUT_S = 1.0


class DatabaseState(msgspec.Struct, frozen=True):
    """Whether the database answers, and the state of its schema: one of app.db.schema.SchemaState, None if unknown."""

    reachable: bool
    schema: str | None


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        state: the checked state, in the form of `/ready`.
        problem: the problem and its remedy, in one sentence; None if there is none.
        blocks: the action that the problem forbids: to start ("boot") or to serve ("requests").
    """

    state: Any = None
    problem: str | None = None
    blocks: Literal["boot", "requests"] | None = None


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: its subject; a field of Readiness.
        run: runs it and returns the finding; cheap enough for each request to `/ready`.
    """

    name: str
    run: Callable[[], Finding]


def _check_database() -> Finding:
    """Checks that the database answers and is migrated.

    An unavailable database blocks nothing: requests are journaled, and the key from the environment works. Refusing
    requests would turn an outage of the accounting into an outage of the gateway. An address that cannot work until
    someone corrects it blocks the start.
    """
    if get_settings().database_url is None:
        problem = "DATABASE_URL is not set. Set it to a PostgreSQL address, or use `make run`, which brings its own."
        return Finding(DatabaseState(reachable=False, schema=None), problem, blocks="boot")
    try:
        with time_limit(_DATABASE_TIMEOUT_S), get_engine().connect() as connection:
            schema = select_schema_state(connection).state
    except DatabaseError as error:
        return explain_database_error(error)
    state = DatabaseState(reachable=True, schema=schema)
    if schema in {"missing", "behind"}:
        return Finding(state, "the database schema is not up to date. Run `bin/gateway db upgrade`.", blocks="boot")
    return Finding(state)


def explain_database_error(error: Exception, setting: str = "DATABASE_URL") -> Finding:
    """Returns the meaning of a failure to connect.

    Args:
        error: the exception of SQLAlchemy or the driver.
        setting: the setting that has the address.
    """
    state = DatabaseState(reachable=False, schema=None)
    if (refusal := describe_refusal(error, setting)) is not None:
        return Finding(state, refusal, blocks="boot")
    return Finding(state, describe_outage(error, setting))


class DatabaseCheck(Component):
    """Checks the database with one query for many simultaneous callers, because anybody may request `/ready`."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._lock = threading.Lock()
        self._begun_s = float("-inf")
        self._finding = Finding()

    def run(self) -> Finding:
        """Returns the finding of a check that began after this call."""
        asked_s = time.monotonic()
        with self._lock:
            if self._begun_s < asked_s:
                self._begun_s = time.monotonic()
                self._finding = _check_database()
            return self._finding


def check_database() -> Finding:
    """Checks that the database answers and is migrated, once for all simultaneous callers."""
    return get_component(DatabaseCheck).run()


def _check_journal() -> Finding:
    status = get_journal_status()
    if status.writable:
        return Finding(status)
    problem = f"the journal cannot be written: {status.last_error}"
    return Finding(status, problem, blocks=None if get_settings().journal_full == "serve" else "requests")


def _check_keys() -> Finding:
    """Checks that users' keys can be checked. It blocks requests only if no key at all works.

    Before the first query there is no problem, because each key is looked up.
    """
    state = get_keys_state()
    if state.database_up is not False and state.doubt is None:
        return Finding(state)
    cause, remedy = f"the database does not answer ({state.last_error})", "Bring the database back."
    if state.database_up is not False:
        cause, remedy = f"the database seems to be half restored: {state.doubt}", "Complete its restore."
    if state.usable and state.known:
        left_s = GRACE_S - (state.age_s or 0)
        problem = (
            f"{cause}. The keys that it had ({state.known}) work for another {left_s:.0f} s, user keys made since get"
            f" 503. {remedy}"
        )
        return Finding(state, problem)
    if state.usable:
        reason = "when it last did, it had no user key"
    elif state.age_s is not None:
        reason = f"the keys were confirmed {state.age_s:.0f} s ago, which is too long"
    else:
        reason = state.file_error or "nothing is known of the keys that it has"
    problem = f"{cause} and {reason}, so user keys get 503. {remedy}"
    return Finding(state, problem, blocks=None if get_settings().gateway_api_key else "requests")


CHECKS = (
    Check("database", check_database),
    Check("keys", _check_keys),
    Check("journal", _check_journal),
    Check("catalogs", lambda: Finding(get_catalog_states())),
    Check("breakers", lambda: Finding(get_open_breakers())),
)
