"""Health: whether the gateway serves, and its problems; for operators the state of every worker."""

from __future__ import annotations

import os
from typing import NamedTuple

from flask import g

from app.dashboard.frame import pages, show
from app.db import DatabaseError, describe_error, time_limit
from app.services.health import Readiness, Workers, check_readiness, select_workers_report
from app.web import Response

# With the checks of the session and of the database, the page takes about two seconds if the database hangs.
_WORKERS_TIME_LIMIT_S = 2.0


class _Catalog(NamedTuple):
    """A provider's list of models over all workers, each of which fetches it for itself."""

    provider: str
    models: int
    youngest_s: float | None
    oldest_s: float | None
    errors: list[str]


@pages.get("/dashboard/health")
def show_health() -> Response:
    """Shows the health of the gateway. The page needs no database, because people open it while that is away."""
    readiness = check_readiness(with_hosts=g.key.is_operator)
    if not g.key.is_operator:
        return show("health_holder.html", "dashboard/health", readiness=readiness)
    workers, failure = _select_workers(readiness)
    return show(
        "health.html",
        "dashboard/health",
        readiness=readiness,
        workers=workers,
        failure=failure,
        own_pid=os.getpid(),
        problems=_merge_problems(readiness, workers),
        catalogs=_merge_catalogs(readiness, workers),
        versions=sorted({worker.version or "" for worker in workers.data}) if workers else [],
    )


def _select_workers(readiness: Readiness) -> tuple[Workers | None, str]:
    """Returns the report on all workers, or None and the reason; a database that is away is not asked again."""
    if not readiness.database.reachable:
        return None, readiness.problems.get("database", "the database does not answer")
    try:
        with time_limit(_WORKERS_TIME_LIMIT_S):
            return select_workers_report(), ""
    except DatabaseError as error:
        return None, describe_error(error)


def _merge_problems(readiness: Readiness, workers: Workers | None) -> dict[str, int]:
    """Returns sentence → how many workers have the problem; the answering one comes first."""
    found: dict[str, int] = dict.fromkeys(readiness.problems.values(), 1)
    for worker in workers.data if workers else ():
        for sentence in worker.state.problems.values() if worker.state and worker.pid != os.getpid() else ():
            found[sentence] = found.get(sentence, 0) + 1
    return found


def _merge_catalogs(readiness: Readiness, workers: Workers | None) -> list[_Catalog]:
    states = [worker.state.catalogs for worker in workers.data if worker.state] if workers else []
    merged = []
    for provider, own in readiness.catalogs.items():
        all_states = [own, *[catalogs[provider] for catalogs in states if provider in catalogs]]
        ages = [state.age_s for state in all_states if state.age_s is not None]
        merged.append(
            _Catalog(
                provider,
                own.models,
                min(ages, default=None),
                max(ages, default=None),
                sorted({state.error for state in all_states if state.error}),
            )
        )
    return merged
