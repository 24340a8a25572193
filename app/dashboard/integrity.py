"""Integrity: whether a record is missing, with the terms of the equation and the workers that it covers."""

from __future__ import annotations

from typing import NamedTuple

from app.dashboard.frame import pages, require_operator, show
from app.services.journal import select_integrity_report
from app.web import Response

# The terms of the sum: first the outcomes of records, which Activity lists.
_OUTCOMES = {
    "ok": "answered",
    "client_gone": "the client left",
    "upstream_error": "the provider failed",
    "upstream_cut": "the provider's answer ended early",
    "upstream_timeout": "the provider took too long",
    "rejected": "refused by the gateway",
    "gateway_shutdown": "ended by a restart",
    "lost": "the worker was killed meanwhile",
}
# Fields of the report that count requests without a record → their names on the page, and their meanings.
_OTHERS = {
    "in_flight": ("in flight", "being served now"),
    "unshipped": ("on their way", "ended; the record is not in the database yet"),
    "unrecorded": ("without a record", "the journal could not be written, or was given up"),
    "rejected": ("refused by PostgreSQL", "the record is in rejected.jsonl of the journal"),
    "lost_in_restores": ("lost in restores", "lost with the database, and named by bin/gateway db reconcile-ledger"),
    "unsent": ("never sent", "begun by a worker that died before it asked a provider"),
}
_LOSSES = ("unrecorded", "rejected")


class _Term(NamedTuple):
    """One term of the sum; an outcome leads to its records, and a loss is bad news."""

    name: str
    number: int
    about: str
    is_outcome: bool
    is_loss: bool


@pages.get("/dashboard/integrity")
def show_integrity() -> Response:
    """Shows the report of `GET /api/activity/integrity`."""
    require_operator()
    report = select_integrity_report()
    terms = [_Term(name, report.outcomes.get(name, 0), about, True, False) for name, about in _OUTCOMES.items()]
    terms += [
        _Term(name, getattr(report, field), about, False, field in _LOSSES) for field, (name, about) in _OTHERS.items()
    ]
    seen = [worker.last_seen_at for worker in report.live if worker.last_seen_at is not None]
    return show(
        "integrity.html",
        "dashboard/integrity",
        report=report,
        terms=terms,
        total=sum(term.number for term in terms),
        oldest_seen_at=min(seen, default=None),
    )
