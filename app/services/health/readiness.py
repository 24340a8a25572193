"""Whether this process should get requests, and the state of what it depends on."""

from __future__ import annotations

from typing import Any

from app.config import SettingsError
from app.db.engine import get_engine
from app.db.errors import DatabaseError, bounded
from app.db.schema import select_schema_state
from app.runtime import get_settings
from app.services.inference.circuit_breaker import get_open_breakers
from app.services.journal.lifecycle import get_journal_status
from app.services.models import get_catalog_states
from app.shutdown import is_draining

# A balancer asks every few seconds and gives up after some; a database that takes longer is as good as away.
_PATIENCE_S = 1.0


def get_readiness() -> dict[str, Any]:
    """Returns `ready` and the state of each dependency.

    Only what makes this process unable to serve takes it out of service: draining, or a journal that refuses. A
    database that is away does not, because requests are journaled; taking every worker out of service for it would
    turn an outage of the bookkeeping into an outage of the gateway.
    """
    journal = get_journal_status()
    serving = journal["writable"] or get_settings().journal_full == "serve"
    return {
        "ready": serving and not is_draining(),
        "draining": is_draining(),
        "database": _database_state(),
        "journal": journal,
        "catalogs": get_catalog_states(),
        "breakers": get_open_breakers(),
    }


def _database_state() -> dict[str, Any]:
    try:
        with bounded(_PATIENCE_S), get_engine().connect() as connection:
            schema = select_schema_state(connection)
    except (DatabaseError, SettingsError):
        return {"reachable": False, "schema": None}
    return {"reachable": True, "schema": schema.state}
