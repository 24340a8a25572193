"""Sends warnings of budgets to LIMITS_WEBHOOK: with retries, from the database, in its own thread.

A message is in the database from the moment its warning is noted until the receiver has accepted it, and each worker
takes due messages from there. So a killed worker takes no message with it; one that is killed right after an attempt
causes the message to be sent twice, with the same id.
"""

from __future__ import annotations

import heapq
import random
import threading
import time

from app.config import SettingsError
from app.db import Database, DatabaseError, describe_error, time_limit
from app.db.budget_warnings import (
    TakenWarning,
    delete_old_warnings,
    delete_warning,
    insert_warning,
    take_warning,
    update_warning_due,
)
from app.logs import log_event
from app.metrics import count_webhook_message
from app.runtime import Component, Runtime, get_component
from app.services.limits import BudgetWarning, Limits
from app.services.webhook.messages import encode_message, make_warning_message, send_message

# The pauses before further attempts at a message: some 18 minutes in total, longer than a receiver takes to restart.
PAUSES_S = (1.0, 3.0, 9.0, 27.0, 81.0, 243.0, 729.0)
# How often a worker looks for other messages, in seconds: due ones, and those of workers that have ended.
POLL_S = 3.0
# How long a message belongs to the worker that sends it, in seconds; then it counts as lost with the worker.
_TAKEN_S = 60.0
# Nobody wants to read older ones, for example after LIMITS_WEBHOOK was unset for a while.
_MAX_AGE_S = 7 * 86_400.0
# The time limit of a statement, in seconds; a statement takes a millisecond.
_DATABASE_TIME_LIMIT_S = 2.0
_REPORT_INTERVAL_S = 60.0


class Webhook(Component):
    """Sends due messages, in a thread that `start` begins."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._woken = threading.Event()
        self._is_stopping = self._has_stopped = False
        self._thread: threading.Thread | None = None
        # The times at which messages postponed by this worker are due, on the monotonic clock.
        self._due: list[float] = []
        # Accepted or given up, but still in the database, because it was not available.
        self._ended: set[str] = set()
        self._report_at_s = 0.0

    def start(self) -> None:
        """Starts the thread; later calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
            self._thread.start()

    def note_warning(self, warning: BudgetWarning) -> bool:
        """Notes a warning together with its message; returns False if another worker has done so.

        Raises:
            DatabaseError: the database is unavailable; then neither is noted.
        """
        message = make_warning_message(warning)
        engine, body = self.runtime.get(Database).lease_engine, encode_message(message).decode()
        return insert_warning(engine, warning.period_id, warning.percent, message_id=message.id, body=body)

    def wake(self, warning: BudgetWarning) -> None:
        """Makes the thread send the message of a warning that was noted. Never waits."""
        self._woken.set()

    def _run(self) -> None:
        self._forget_old()
        while True:
            is_last = self._is_stopping  # Read before the check, so that nothing from before the stop is missed.
            try:
                is_sent = self._send_next()
            except (DatabaseError, SettingsError) as error:
                is_sent = False
                self._report_unavailable(error)
            except Exception as error:
                is_sent = False
                log_event("webhook_failed", level="error", error=error)
            if self._has_stopped:
                return
            if is_sent:
                continue
            if is_last:
                return
            self._woken.wait(self._get_pause_s())
            self._woken.clear()

    def _forget_old(self) -> None:
        try:
            with time_limit(_DATABASE_TIME_LIMIT_S):
                delete_old_warnings(self.runtime.get(Database).engine, _MAX_AGE_S)
        except (DatabaseError, SettingsError) as error:
            self._report_unavailable(error)

    def _get_pause_s(self) -> float:
        now_s = time.monotonic()
        while self._due and self._due[0] <= now_s:
            heapq.heappop(self._due)
        pause_s = POLL_S * random.uniform(0.8, 1.2)  # So that workers do not all ask at once.
        return min(pause_s, self._due[0] - now_s) if self._due else pause_s

    def _report_unavailable(self, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s >= self._report_at_s:
            self._report_at_s = now_s + _REPORT_INTERVAL_S
            log_event("webhook_messages_delayed", level="warning", reason=describe_error(error))

    def _send_next(self) -> bool:
        """Sends a message that is due; returns False if there is none.

        Raises:
            DatabaseError: the database is unavailable.
        """
        engine, worker_id = self.runtime.get(Database).engine, self.runtime.worker_id
        for message_id in list(self._ended):
            self._end(message_id)
        with time_limit(_DATABASE_TIME_LIMIT_S):
            taken = take_warning(engine, worker_id, _TAKEN_S)
        if taken is None:
            return False
        try:
            reason = send_message(self.settings, taken.id, taken.body.encode())
        except Exception as error:  # A mistake in the gateway must not make a message return forever.
            log_event("webhook_attempt_failed", level="error", error=error, message_id=taken.id)
            reason = f"a mistake in the gateway: {type(error).__name__}"
        self._note_attempt(taken, reason)
        return True

    def _note_attempt(self, taken: TakenWarning, reason: str | None) -> None:
        if reason is None:
            log_event("webhook_message_delivered", message_id=taken.id, attempts=taken.attempts)
            count_webhook_message("delivered")
            self._end(taken.id)
        elif taken.attempts > len(PAUSES_S):
            self._give_up(taken, reason)
        else:
            if taken.attempts == 1:
                log_event("webhook_message_delayed", level="warning", message_id=taken.id, reason=reason)
            count_webhook_message("retried")
            pause_s = PAUSES_S[taken.attempts - 1] * random.uniform(0.8, 1.2)
            with time_limit(_DATABASE_TIME_LIMIT_S):
                update_warning_due(self.runtime.get(Database).engine, self.runtime.worker_id, taken.id, pause_s)
            heapq.heappush(self._due, time.monotonic() + pause_s)

    def _give_up(self, taken: TakenWarning, reason: str) -> None:
        log_event(
            "webhook_message_failed",
            level="error",
            message_id=taken.id,
            attempts=taken.attempts,
            reason=reason,
            body=taken.body,
        )
        count_webhook_message("given_up")
        self._end(taken.id)

    def _end(self, message_id: str) -> None:
        self._ended.add(message_id)
        with time_limit(_DATABASE_TIME_LIMIT_S):
            delete_warning(self.runtime.get(Database).engine, message_id)
        self._ended.discard(message_id)

    def stop(self, timeout_s: float) -> None:
        """Lets due messages be sent for `timeout_s` seconds; other workers, or the next start, send the rest."""
        self._is_stopping = True
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._has_stopped = True

    def close(self) -> None:
        """Ends the thread."""
        self.stop(0.0)


def start_webhook() -> None:
    """Makes warnings of budgets go to LIMITS_WEBHOOK, if it is set. Called once per worker, after the fork."""
    webhook = get_component(Webhook)
    if webhook.settings.limits_webhook is not None:
        limits = get_component(Limits)
        limits.note_warning, limits.on_warning = webhook.note_warning, webhook.wake
        webhook.start()


def stop_webhook(timeout_s: float) -> None:
    """Ends the messages of this process; see `Webhook.stop`."""
    get_component(Webhook).stop(timeout_s)
