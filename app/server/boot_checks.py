"""What must be right before the workers start, checked with few imports, because every start waits for it.

Each check returns what is wrong, or None. `/ready` has checks of its own (`services/health`), of what changes later.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.util import find_spec
from typing import NamedTuple

import psycopg2

from app.config import KEYS_GRACE_S, SettingsError, provider_names
from app.revisions import get_head
from app.runtime import get_settings
from app.services.pricing import load_operator_prices

# A database that takes longer than this to connect is asked again by the full check, which says what is wrong.
_CONNECT_TIMEOUT_S = 2


class Problem(NamedTuple):
    """What a check found.

    Attributes:
        text: what is wrong and what to do about it, in one sentence.
        blocks: whether the gateway must not start because of it.
    """

    text: str
    blocks: bool = False


def _check_prices() -> Problem | None:
    try:
        load_operator_prices()
    except SettingsError as error:
        return Problem(str(error), blocks=True)
    return None


def _check_provider_keys() -> Problem | None:
    settings = get_settings()
    if any(getattr(settings, f"{name}_api_key") for name in provider_names()):
        return None
    names = ", ".join(f"{name.upper()}_API_KEY" for name in provider_names())
    return Problem(f"no provider has a key, so no model can be served. Set at least one of {names}.")


def _check_gateway_key() -> Problem | None:
    if get_settings().gateway_api_key:
        return None
    return Problem(
        "GATEWAY_API_KEY is not set, so only keys from `bin/gateway keys create` work, and after a start"
        f" without the database only those that JOURNAL_DIR has, for {KEYS_GRACE_S / 60:.0f} minutes."
    )


def _check_journal_directory() -> Problem | None:
    """Makes the directory and a file in it, as the workers will. A disk that is only full may have room again later."""
    settings = get_settings()
    directory = settings.journal_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError as error:
        text = (
            f"JOURNAL_DIR is {directory}, which cannot be written ({error.strerror}). Give that directory to this user,"
            " or set JOURNAL_DIR to another one."
        )
        is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        return Problem(text, blocks=not is_full and settings.journal_full != "serve")


def _check_database() -> Problem | None:
    """Checks that the database answers and is migrated; one that is just unavailable does not block the start.

    A database that is as it should be is asked over a plain connection, because importing SQLAlchemy takes longer than
    all checks together. What is wrong with another one is found by the check of `/ready`.
    """
    address = get_settings().database_url
    if address is not None and _has_newest_schema(address):
        return None
    from app.services.health import check_database

    finding = check_database()
    return None if finding.problem is None else Problem(finding.problem, blocks=finding.blocks == "boot")


def _has_newest_schema(address: str) -> bool:
    """Whether the database answers and has the newest migration. `address` names the driver, as SQLAlchemy wants it."""
    libpq_address = address.replace("postgresql+psycopg2://", "postgresql://", 1)
    try:
        with (
            closing(psycopg2.connect(libpq_address, connect_timeout=_CONNECT_TIMEOUT_S)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT max(version_num) FROM alembic_version")
            return bool(cursor.fetchone() == (get_head(),))
    except psycopg2.Error:
        return False


def _check_cipher() -> Problem | None:
    if not get_settings().idempotency_hours or find_spec("cryptography") is not None:
        return None
    return Problem(
        "IDEMPOTENCY_HOURS is set, and the package cryptography, which encrypts the answers, is not installed. Install"
        " it with `pip install --require-hashes -r requirements-idempotency.txt`, or unset IDEMPOTENCY_HOURS.",
        blocks=True,
    )


# In the order in which they are told; the first that blocks the start is the reason.
BOOT_CHECKS: Mapping[str, Callable[[], Problem | None]] = {
    "prices": _check_prices,
    "provider_keys": _check_provider_keys,
    "gateway_key": _check_gateway_key,
    "journal_directory": _check_journal_directory,
    "cipher": _check_cipher,
    "database": _check_database,
}
