"""What must be in place before the gateway serves: checked once, in gunicorn's main process."""

from __future__ import annotations

from app.config import Settings, SettingsError
from app.db.schema import SchemaError, fetch_schema_state
from app.logs import log_event
from app.runtime import use_settings
from app.services.pricing import load_operator_prices


def check_boot(settings: Settings) -> str | None:
    """Returns the reason not to start, in one sentence, or None.

    A database that does not answer is no reason: requests are journaled and keys of the environment work, and a
    gateway that starts beats one that waits for its bookkeeping. `/ready` and the log say so.
    """
    use_settings(settings)
    try:
        load_operator_prices()
    except SettingsError as error:
        return str(error)
    if settings.database_url is None:
        return "DATABASE_URL is not set. Set it to a PostgreSQL address, or use `make run`, which brings its own."
    try:
        state = fetch_schema_state(settings.database_url)
    except SchemaError as error:
        log_event("database not reachable at boot", level="warning", reason=str(error)[:300])
        return None
    if state.state in {"missing", "behind"}:
        return "the database schema is not up to date. Run `flask --app wsgi db upgrade`."
    return None
