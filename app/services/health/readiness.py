"""Readiness: whether this process should get requests, and the state of its dependencies."""

from __future__ import annotations

import msgspec

from app.db import DatabaseError, time_limit
from app.logs import log_event, redact
from app.runtime import Component, get_component
from app.services.health.checks import CHECKS, DatabaseState, Finding
from app.services.inference import OpenBreaker
from app.services.journal import HostReport, JournalStatus, describe_gone_hosts, select_host_reports
from app.services.keys import KeysState
from app.services.models import CatalogState
from app.shutdown import is_draining, is_gateway_stopping

_HOSTS_TIMEOUT_S = 1.0


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """The state of this process.

    Attributes:
        ready: whether the gateway should get requests: it is not stopping as a whole, and no check found a problem that
            blocks requests. A process that only is replaced by another one answers for those that serve on.
        draining: whether it is stopping.
        problems: what is wrong, check → one sentence; also what does not make the process unready.
        database: whether the database answers. An unavailable one does not make the process unready.
        keys: the live keys in memory. Without usable ones only the operator's key works.
        journal: the state of this process's journal.
        catalogs: the model list of each configured provider.
        breakers: the open circuit breakers.
        hosts: all hosts that share the database, the one that has been silent for longest first; None if the database
            does not answer.
    """

    ready: bool
    draining: bool
    problems: dict[str, str]
    database: DatabaseState
    keys: KeysState
    journal: JournalStatus
    catalogs: dict[str, CatalogState]
    breakers: list[OpenBreaker]
    hosts: list[HostReport] | None


def check_readiness(*, with_hosts: bool = False) -> Readiness:
    """Returns the state of this process, from the checks for `/ready`.

    Args:
        with_hosts: whether to ask the database for the hosts too. They are for operators: load balancers ask too often.
    """
    findings = {check.name: check.run() for check in CHECKS}
    hosts = _select_hosts() if with_hosts and findings["database"].state.reachable else None
    if hosts is not None:
        findings["hosts"] = Finding(problem=describe_gone_hosts(hosts))
    return Readiness(
        ready=not is_gateway_stopping() and all(finding.blocks != "requests" for finding in findings.values()),
        draining=is_draining(),
        problems={name: redact(finding.problem) for name, finding in findings.items() if finding.problem is not None},
        hosts=hosts,
        **{name: finding.state for name, finding in findings.items() if name != "hosts"},
    )


def _select_hosts() -> list[HostReport] | None:
    try:
        with time_limit(_HOSTS_TIMEOUT_S):  # Statistics may be ahead of it, and load balancers wait only some.
            return select_host_reports()
    except DatabaseError:
        return None


class _LastAnswer(Component):
    """The last answer of this process's `/ready`.

    Attributes:
        ready: as in `Readiness`.
    """

    ready = True


def note_readiness(readiness: Readiness) -> None:
    """Logs that the answer of `/ready` has changed; load balancers ask too often for a line each."""
    last = get_component(_LastAnswer)
    if readiness.ready == last.ready:
        return
    last.ready = readiness.ready
    if readiness.ready:
        log_event("readiness_regained")
    else:
        level = "info" if readiness.draining else "warning"
        log_event("readiness_lost", level=level, draining=readiness.draining, problems=readiness.problems)
