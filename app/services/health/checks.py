"""The checks of what the gateway depends on: one list for the start of the gateway and for `/ready`."""

from __future__ import annotations

import errno
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from app.config import SettingsError, provider_names
from app.db import DatabaseError, describe_error, describe_refusal, get_engine, time_limit
from app.db.schema import select_schema_state
from app.runtime import Component, Runtime, get_component, get_settings
from app.services.inference import get_open_breakers
from app.services.journal import get_journal_status
from app.services.keys import GRACE_S, get_keys_state
from app.services.models import get_catalog_states
from app.services.pricing import load_operator_prices

# A load balancer asks every few seconds and waits only some, so a database that takes longer counts as unavailable.
_DATABASE_TIMEOUT_S = 1.0


class DatabaseState(msgspec.Struct, frozen=True):
    """Whether the database answers, and the state of its schema: one of app.db.schema.SchemaState, None if unknown."""

    reachable: bool
    schema: str | None


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        state: what was checked, as `/ready` shows it.
        problem: what is wrong and what to do about it, in one sentence; None if nothing is.
        blocks: what the gateway may not do because of the problem: start ("boot") or serve ("requests").
    """

    state: Any = None
    problem: str | None = None
    blocks: Literal["boot", "requests"] | None = None


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what it is about; a field of Readiness where `in_ready` is true.
        run: runs it and returns what it found.
        at_boot: whether it runs once before the workers start, when there is no journal and no catalog yet.
        in_ready: whether it is cheap enough to run for each request to `/ready`.
    """

    name: str
    run: Callable[[], Finding]
    at_boot: bool = False
    in_ready: bool = False


def _check_prices() -> Finding:
    try:
        load_operator_prices()
    except SettingsError as error:
        return Finding(problem=str(error), blocks="boot")
    return Finding()


def _check_provider_keys() -> Finding:
    settings = get_settings()
    if any(getattr(settings, f"{name}_api_key") for name in provider_names()):
        return Finding()
    names = ", ".join(f"{name.upper()}_API_KEY" for name in provider_names())
    return Finding(problem=f"no provider has a key, so no model can be served. Set at least one of {names}.")


def _check_gateway_key() -> Finding:
    if get_settings().gateway_api_key:
        return Finding()
    return Finding(
        problem="GATEWAY_API_KEY is not set, so only keys from `flask --app wsgi keys create` work, and after a start"
        f" without the database only those that JOURNAL_DIR has, for {GRACE_S / 60:.0f} minutes."
    )


def _check_database() -> Finding:
    """Checks that the database answers and is migrated.

    An unavailable database blocks nothing: requests are journaled, and the key from the environment works. Refusing
    requests would turn an outage of the accounting into an outage of the gateway. An address that cannot work before
    someone corrects it blocks the start.
    """
    if get_settings().database_url is None:
        problem = "DATABASE_URL is not set. Set it to a PostgreSQL address, or use `make run`, which brings its own."
        return Finding(DatabaseState(reachable=False, schema=None), problem, blocks="boot")
    try:
        with time_limit(_DATABASE_TIMEOUT_S), get_engine().connect() as connection:
            schema = select_schema_state(connection).state
    except DatabaseError as error:
        if (refusal := describe_refusal(error)) is not None:
            return Finding(DatabaseState(reachable=False, schema=None), refusal, blocks="boot")
        problem = f"the database does not answer: {describe_error(error)}"
        return Finding(DatabaseState(reachable=False, schema=None), problem)
    state = DatabaseState(reachable=True, schema=schema)
    if schema in {"missing", "behind"}:
        return Finding(
            state, "the database schema is not up to date. Run `flask --app wsgi db upgrade`.", blocks="boot"
        )
    return Finding(state)


def _check_journal_directory() -> Finding:
    """Makes the directory and a file in it, as the workers will. A disk that is only full may have room again later."""
    directory = get_settings().journal_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return Finding()
    except OSError as error:
        problem = (
            f"JOURNAL_DIR is {directory}, which cannot be written ({error.strerror}). Give that directory to this user,"
            " or set JOURNAL_DIR to another one."
        )
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return Finding(problem=problem, blocks=None if is_full or get_settings().journal_full == "serve" else "boot")


class DatabaseCheck(Component):
    """Checks the database for many callers at once with one query, because anybody may ask for `/ready`."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._lock = threading.Lock()
        self._begun_s = float("-inf")
        self._finding = Finding()

    def run(self) -> Finding:
        """Returns what a check found that began after this call."""
        asked_s = time.monotonic()
        with self._lock:
            if self._begun_s < asked_s:
                self._begun_s = time.monotonic()
                self._finding = _check_database()
            return self._finding


def _check_journal() -> Finding:
    status = get_journal_status()
    if status.writable:
        return Finding(status)
    problem = f"the journal cannot be written: {status.last_error}"
    return Finding(status, problem, blocks=None if get_settings().journal_full == "serve" else "requests")


def _check_keys() -> Finding:
    """Checks that the keys of users can be checked. It blocks requests only if no key at all works.

    Before the first query there is no problem: each key is looked up.
    """
    state = get_keys_state()
    if state.database_up is not False:
        return Finding(state)
    cause = f"the database does not answer ({state.last_error})"
    if state.usable and state.known:
        left_s = GRACE_S - (state.age_s or 0)
        problem = (
            f"{cause}. The keys that it had ({state.known}) work for another {left_s:.0f} s, user keys made since get"
            " 503. Bring the database back."
        )
        return Finding(state, problem)
    if state.usable:
        reason = "when it last did, it had no user key"
    elif state.age_s is not None:
        reason = f"the keys were confirmed {state.age_s:.0f} s ago, which is too long"
    else:
        reason = state.file_error or "nothing is known of the keys that it has"
    problem = f"{cause} and {reason}, so user keys get 503. Bring the database back."
    return Finding(state, problem, blocks=None if get_settings().gateway_api_key else "requests")


CHECKS = (
    Check("prices", _check_prices, at_boot=True),
    Check("provider_keys", _check_provider_keys, at_boot=True),
    Check("gateway_key", _check_gateway_key, at_boot=True),
    Check("journal_directory", _check_journal_directory, at_boot=True),
    Check("database", lambda: get_component(DatabaseCheck).run(), at_boot=True, in_ready=True),
    Check("keys", _check_keys, in_ready=True),
    Check("journal", _check_journal, in_ready=True),
    Check("catalogs", lambda: Finding(get_catalog_states()), in_ready=True),
    Check("breakers", lambda: Finding(get_open_breakers()), in_ready=True),
)
