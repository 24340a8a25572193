"""Readiness: whether this process should get requests, and the state of what it depends on."""

from __future__ import annotations

import msgspec

from app.logs import redact
from app.services.health.checks import CHECKS, DatabaseState
from app.services.inference import OpenBreaker
from app.services.journal import JournalStatus
from app.services.keys import KeysState
from app.services.models import CatalogState
from app.shutdown import is_draining


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The state of this process.

    Attributes:
        ready: whether it should get requests: it is not draining, and no check found a problem that blocks requests.
        draining: whether it is stopping.
        problems: what is wrong, check → one sentence; also what does not make the process unready.
        database: whether the database answers. An unavailable one does not make the process unready.
        keys: the live keys in memory. Without usable ones only the operator's key works.
        journal: the state of this process's journal.
        catalogs: the model list of each configured provider.
        breakers: the open circuit breakers.
    """

    ready: bool
    draining: bool
    problems: dict[str, str]
    database: DatabaseState
    keys: KeysState
    journal: JournalStatus
    catalogs: dict[str, CatalogState]
    breakers: list[OpenBreaker]


def get_readiness() -> Readiness:
    """Returns the state of this process, from the checks that `/ready` shows."""
    findings = {check.name: check.run() for check in CHECKS}
    draining = is_draining()
    return Readiness(
        ready=not draining and all(finding.blocks != "requests" for finding in findings.values()),
        draining=draining,
        problems={name: redact(finding.problem) for name, finding in findings.items() if finding.problem is not None},
        **{name: finding.state for name, finding in findings.items()},
    )
