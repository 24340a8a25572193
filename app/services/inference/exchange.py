"""The state of one inference request, and the only code that finishes it.

Code that acquires something for a request registers its release with `on_finish`. `finish` runs all releases once,
however the request ends. Limits are the exception: their charge must be on the record before it is written, so `finish`
settles them itself, and `withdraw` releases them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal

from app.logs import log_event
from app.metrics import count_request, count_request_fault
from app.runtime import get_runtime
from app.services.endpoints import Endpoint, Translated
from app.services.inference.attempts import close_attempts
from app.services.inference.fallback import Fallback
from app.services.inference.limited import LimitedRequest
from app.services.journal import ActivityRecord, Journal
from app.services.limits import Policy
from app.services.routing import Target
from app.services.streaming import ClientConnection
from app.services.traces import RequestSpans, TraceContext

_NOTHING = Decimal(0)


class Exchange:
    """One inference request in progress, with its record and everything that was acquired for it.

    Args:
        endpoint: the endpoint that was called.
        key_id: the public id of the caller's gateway key.
        client: the connection to the caller.
        get_header: maps a lower-case name to the value of that header of the request, or to None.
        policy: the limits of the key; None without any.
        holder: the holder of the key; empty without one.

    Attributes:
        record: the record of the request so far.
        request_id: its id, a UUID of version 7.
        settings: the settings of this process.
        started_s: when it began, on the monotonic clock.
        deadline_s: when it must be over, on the same clock.
        is_dry_run: whether it is only described, and sent nowhere.
        is_started: whether the journal may have a start for it, which then needs an end.
        is_sent: whether a provider may have received it. Until then it costs nothing.
        translated: the request after its translation to another endpoint; None if its own endpoint is served directly.
        policy: as above.
        limited: its reservations under its limits; None without limits, and before it is admitted.
        holder: as above.
        fallback: the targets that may still serve it; None if there is only one, and before it is routed.
        attempt_started_s: when it was last sent to a provider, on the monotonic clock.
        served_from_s: the start for its speed: when it began or, after a target was given up, the next try.
        trace: the trace that it belongs to; None without one.
        spans: its spans; None if they are not exported.
        spent_usd: the known cost of the targets that were given up.
    """

    __slots__ = (
        "_is_finished",
        "_journal",
        "_releases",
        "attempt_started_s",
        "client",
        "deadline_s",
        "endpoint",
        "fallback",
        "get_header",
        "holder",
        "is_dry_run",
        "is_sent",
        "is_started",
        "limited",
        "policy",
        "record",
        "request_id",
        "served_from_s",
        "settings",
        "spans",
        "spent_usd",
        "started_s",
        "trace",
        "translated",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        key_id: str,
        client: ClientConnection,
        get_header: Callable[[str], str | None] = lambda name: None,
        policy: Policy | None = None,
        holder: str = "",
    ) -> None:
        runtime = get_runtime()
        self.endpoint = endpoint
        self.get_header = get_header
        self.client = client
        self.settings = runtime.settings
        self.started_s = self.served_from_s = self.attempt_started_s = time.monotonic()
        self.deadline_s = self.started_s + self.settings.upstream_total_timeout_s
        self._journal = runtime.get(Journal)
        self.record: ActivityRecord = self._journal.begin(key_id, endpoint.path)
        self.request_id = self.record.request_id
        self.is_started = self.is_sent = self.is_dry_run = False
        self.translated: Translated | None = None
        self.policy = policy
        self.limited: LimitedRequest | None = None
        self.holder = holder
        self.fallback: Fallback | None = None
        self.trace: TraceContext | None = None
        self.spans: RequestSpans | None = None
        self.spent_usd = _NOTHING
        self._is_finished = False
        self._releases: list[Callable[[], None]] = []

    def on_finish(self, release: Callable[[], None]) -> None:
        """Registers a release. It runs once, when the request is finished; the last registered runs first."""
        self._releases.append(release)

    def set_target(self, target: Target) -> None:
        """Records the target that the request is sent to next."""
        self.record.gateway = target.provider.name
        # The model is recorded now only if it is listed; an unlisted one, once the provider has served it.
        self.record.model_served = target.model if target.is_listed else None

    def write_start(self) -> None:
        """Writes the start of the request to the journal. Call it right before the request is sent to a provider.

        Raises:
            Unavailable: the journal cannot be written, and JOURNAL_FULL is "refuse".
        """
        self.is_started = True
        self._journal.write_start(self.record)

    def finish(self, outcome: str, status: int) -> None:
        """Ends the request: its final record is written and everything is released. Later calls change nothing.

        If a step fails, all others still run: the record has the known facts, and no reservation remains.

        Args:
            outcome: one of app.db.tables.OUTCOMES.
            status: the HTTP status that the client received.
        """
        if self._is_finished:
            return
        self._is_finished = True
        record = self.record
        record.outcome, record.status = outcome, status
        record.duration_ms = (time.monotonic() - self.started_s) * 1000
        if not self.is_sent:
            record.cost_usd, record.cost_kind = "0", "exact"  # Nothing was sent, so it cost nothing.
        limited = self.limited
        if limited is not None:
            limited.write_charge(record, self.note_fault, is_sent=self.is_sent)
        if record.attempts:
            self._close_attempts()
        self._journal.write_final(record)
        if limited is not None:
            try:
                limited.settle(limited.charge)
            except Exception as error:
                self.note_fault("settle", error)
        self._release_all()
        try:
            count_request(record)
        except Exception as error:
            self.note_fault("count", error)
        _log(record)

    def _close_attempts(self) -> None:
        try:
            elapsed_s = time.monotonic() - self.attempt_started_s if self.is_sent else None
            close_attempts(self.record, self.spent_usd, elapsed_s)
        except Exception as error:
            self.note_fault("attempts", error)

    def withdraw(self) -> None:
        """Ends a request without a record of its own, because another record counts it. It must not have been started.

        Everything is released. Later calls, also of `finish`, change nothing.
        """
        if self._is_finished:
            return
        self._is_finished = True
        self._journal.withdraw()
        if self.limited is not None:
            try:
                self.limited.release()
            except Exception as error:
                self.note_fault("settle", error)
        self._release_all()

    def _release_all(self) -> None:
        while self._releases:
            try:
                self._releases.pop()()
            except Exception as error:  # The other releases must still run.
                self.note_fault("release", error)

    def note_fault(self, step: str, error: Exception) -> None:
        """Logs and counts a mistake of the gateway in a step that ends the request. All other steps still run.

        Args:
            step: "usage", "error", "charge", "attempts", "settle", "release" or "count".
            error: the exception.
        """
        count_request_fault(step)
        log_event("request_step_failed", level="error", step=step, error=error, request_id=self.request_id)


# Outcomes that are not failures, and statuses with which a provider refuses a caller's request.
_QUIET_OUTCOMES = frozenset({"ok", "client_gone", "gateway_shutdown"})
_CALLERS_STATUSES = frozenset({400, 402, 404, 413, 422, 429})


def _log(record: ActivityRecord) -> None:
    outcome, status = record.outcome, record.status
    if outcome in _QUIET_OUTCOMES or status in _CALLERS_STATUSES or (outcome == "rejected" and status < 500):
        level = "info"
    else:
        level = "error" if outcome == "rejected" and status == 500 else "warning"
    log_event(
        "request",
        level=level,
        request_id=record.request_id,
        key=record.key_id,
        path=record.endpoint,
        gateway=record.gateway,
        model=record.model_served or record.model_requested,
        stream=record.stream,
        status=record.status,
        outcome=record.outcome,
        error_code=record.error_code or record.error_type,
        error_message=record.error_message,
        duration_ms=record.duration_ms,
        ttft_ms=record.ttft_ms,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        cost_usd=record.cost_usd,
        upstream_request_id=record.upstream_request_id,
        client_request_id=record.client_request_id,
    )
