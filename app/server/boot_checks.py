"""Checks before the workers start, with few imports, because every start waits for them.

Each check returns a problem or None. `/ready` has its own checks of conditions that change later (`services/health`).
"""

from __future__ import annotations

import errno
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from app.config import KEYS_GRACE_S, SettingsError, find_misspelt_names, provider_names, read_environment
from app.runtime import get_settings
from app.server.database_addresses import check_database, check_direct_database
from app.server.problems import Problem
from app.services.pricing import load_operator_prices
from app.speedups import find_speedups


def _check_prices() -> Problem | None:
    try:
        load_operator_prices()
    except SettingsError as error:
        return Problem(str(error), blocks="start", settings=("PRICE_FILE",))
    return None


def _check_provider_keys() -> Problem | None:
    settings = get_settings()
    if any(getattr(settings, f"{name}_api_key") for name in provider_names()):
        return None
    names = tuple(f"{name.upper()}_API_KEY" for name in provider_names())
    text = f"no provider has a key, so no model can be served. Set at least one of {', '.join(names)}."
    return Problem(text, blocks="reload", settings=names)


def _check_gateway_key() -> Problem | None:
    if get_settings().gateway_api_key:
        return None
    return Problem(
        "GATEWAY_API_KEY is not set, so only keys from `bin/gateway keys create` work, and after a start"
        f" without the database only those that JOURNAL_DIR has, for {KEYS_GRACE_S / 60:.0f} minutes.",
        settings=("GATEWAY_API_KEY",),
    )


def _prepare_journal_directory() -> Problem | None:
    """Creates the directory and a file in it, like the workers. A disk that is only full may have room again later."""
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
        is_bearable = is_full or settings.journal_full == "serve"
        return Problem(text, blocks="reload" if is_bearable else "start", settings=("JOURNAL_DIR",))


def _has_opentelemetry() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def _check_traces() -> Problem | None:
    if get_settings().otlp_endpoint is None or _has_opentelemetry():
        return None
    return Problem(
        "OTEL_EXPORTER_OTLP_ENDPOINT is set and OpenTelemetry is not installed. Run"
        " `.venv/bin/pip install --require-hashes -r requirements.txt -r requirements-traces.txt`, or unset it.",
        blocks="start",
        settings=("OTEL_EXPORTER_OTLP_ENDPOINT",),
    )


def _check_cipher() -> Problem | None:
    if not get_settings().idempotency_hours or find_spec("cryptography") is not None:
        return None
    return Problem(
        "IDEMPOTENCY_HOURS is set, and the package cryptography, which encrypts the answers, is not installed. Install"
        " it with `pip install --require-hashes -r requirements-idempotency.txt`, or unset IDEMPOTENCY_HOURS.",
        blocks="start",
        settings=("IDEMPOTENCY_HOURS",),
    )


def _check_names() -> Problem | None:
    """Looks for near misses of setting names. `get_settings` keeps known names only, so the files are read again."""
    misspelt = find_misspelt_names(read_environment())
    if not misspelt:
        return None
    wrong = "; ".join(f"{name} is not a setting, did you mean {near}?" for name, near in misspelt.items())
    return Problem(f"some names are not those of settings, so they have no effect: {wrong} Correct or remove them.")


def _check_speedups() -> Problem | None:
    problem = find_speedups().problem if get_settings().compiled_events else None
    if problem is None:
        return None
    return Problem(
        f"the compiled path for events {problem}, so events take the one in Python. Run `make speedups` and restart, or"
        " set COMPILED_EVENTS=false.",
        settings=("COMPILED_EVENTS",),
    )


# In the order of reporting; the first one that blocks the start is the reason.
BOOT_CHECKS: Mapping[str, Callable[[], Problem | None]] = {
    "prices": _check_prices,
    "provider_keys": _check_provider_keys,
    "gateway_key": _check_gateway_key,
    "journal_directory": _prepare_journal_directory,
    "cipher": _check_cipher,
    "traces": _check_traces,
    "speedups": _check_speedups,
    "names": _check_names,
    "database": check_database,
    "direct_database": check_direct_database,
}
