"""Sends warnings of budgets to LIMITS_WEBHOOK: signed, with retries, from a bounded queue, in a thread of its own.

The messages and their signature follow Standard Webhooks (standardwebhooks.com), so that receivers can check them with
its libraries: HMAC-SHA-256 over the message's id, the time of the attempt and the body.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import hmac
import itertools
import random
import threading
import time
from datetime import UTC, datetime

import msgspec

from app.config import Settings
from app.logs import log_event
from app.metrics import count_webhook_message
from app.runtime import Component, Runtime, get_component
from app.services.limits import BudgetWarning, Limits, describe_amount, parse_amount
from app.upstream import deliver

# How long an attempt may take in all, in seconds.
TIMEOUT_S = 5.0
# The pauses before the further attempts of a message: some 18 minutes in all, longer than a receiver is restarted for.
PAUSES_S = (1.0, 3.0, 9.0, 27.0, 81.0, 243.0, 729.0)
# How many messages may wait; each has about a kilobyte.
MAX_WAITING = 1_000
# How often dropped messages are logged; each is counted.
_DROP_LOG_INTERVAL_S = 60.0

_STOPPED = "the gateway stopped"

_encode = msgspec.json.encode


class WarnedSubject(msgspec.Struct, frozen=True, kw_only=True):
    """Whose budget it is: a holder of keys, a group or the gateway, as `GET /api/keys` and `GET /api/groups` list."""

    kind: str
    id: str
    name: str


class WarningData(msgspec.Struct, frozen=True, kw_only=True):
    """What a warning says; see `BudgetWarning`. Amounts are decimal numbers in the unit, as texts."""

    subject: WarnedSubject
    budget: int
    unit: str
    window: str
    warn_percent: int
    used_percent: int
    charged: str
    amount: str
    resets_at: str | None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a message.

    Attributes:
        type: what kind of message it is.
        id: the same in each attempt, and never twice; the header `webhook-id` has it too.
        timestamp: when it was made, in ISO 8601.
        text: the same for people, as one sentence.
        data: the same for programs; None in a test message.
    """

    type: str
    id: str
    timestamp: str
    text: str
    data: WarningData | None


def make_warning_message(warning: BudgetWarning) -> Message:
    """Returns the message of a warning. Its id is made of the period and the share, which are warned of once."""
    unit, subject = warning.unit, warning.subject
    charged, amount = parse_amount(warning.charged, unit), parse_amount(warning.amount, unit)
    used = 100 if amount <= 0 else charged * 100 // amount
    whose = "The gateway" if subject.kind == "gateway" else f"The {subject.kind} {subject.name}"
    resets = "" if warning.resets_at is None else f" It resets at {warning.resets_at}."
    return Message(
        type="budget.warning",
        id=f"budget-{warning.period_id}-{warning.percent}",
        timestamp=_format_now(),
        text=f"{whose} has used {used}% of its budget of {describe_amount(amount, unit)} ({warning.window}).{resets}",
        data=WarningData(
            subject=WarnedSubject(kind=subject.kind, id=subject.id, name=subject.name),
            budget=warning.budget,
            unit=unit,
            window=warning.window,
            warn_percent=warning.percent,
            used_percent=used,
            charged=warning.charged,
            amount=warning.amount,
            resets_at=warning.resets_at,
        ),
    )


def _format_now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def sign(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """Returns the value of the header `webhook-signature`.

    Args:
        secret: LIMITS_WEBHOOK_SECRET.
        message_id: the header `webhook-id`.
        timestamp: the header `webhook-timestamp`: seconds since 1970.
        body: the body as it is sent.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def send_message(settings: Settings, message_id: str, body: bytes) -> str | None:
    """Sends a message once.

    Args:
        settings: have the address, which must be set, and the secret.
        message_id: its id.
        body: a `Message` in JSON.

    Returns:
        None once the receiver has accepted it, else why not.
    """
    assert settings.limits_webhook is not None and settings.limits_webhook_secret is not None
    timestamp = str(int(time.time()))
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": sign(settings.limits_webhook_secret, message_id, timestamp, body),
    }
    return deliver(settings.limits_webhook, headers, body, TIMEOUT_S)


def send_test_message(settings: Settings) -> str | None:
    """Sends a message that says that messages arrive; arguments and result as for `send_message`."""
    message = Message(
        type="test",
        id=f"test-{random.getrandbits(64):016x}",
        timestamp=_format_now(),
        text="This is a test message of the gateway; warnings of budgets look like it.",
        data=None,
    )
    return send_message(settings, message.id, _encode(message))


class _Waiting(msgspec.Struct):
    """A message that waits for its next attempt, and how many it has had."""

    id: str
    body: bytes
    attempts: int = 0


class Webhook(Component):
    """The messages of one worker that wait to be sent. Its thread starts with the first of them."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        # By the time of the next attempt, on the monotonic clock. A message that is being sent is not in it.
        self._waiting: list[tuple[float, int, _Waiting]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        self._current: _Waiting | None = None
        self._dropped = 0
        self._report_at_s = 0.0

    def send_warning(self, warning: BudgetWarning) -> None:
        """Queues the message of a warning. Never waits."""
        message = make_warning_message(warning)
        self._put(time.monotonic(), _Waiting(message.id, _encode(message)))

    def _put(self, due_s: float, waiting: _Waiting) -> None:
        with self._lock:
            has_room = len(self._waiting) < MAX_WAITING
            if has_room and not self._is_stopping:
                heapq.heappush(self._waiting, (due_s, next(self._numbers), waiting))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
                    self._thread.start()
        if self._is_stopping:
            self._give_up(waiting, _STOPPED)
        elif not has_room:
            self._note_dropped(waiting)
        self._woken.set()

    def _note_dropped(self, waiting: _Waiting) -> None:
        count_webhook_message("dropped")
        self._dropped += 1
        now_s = time.monotonic()
        if now_s >= self._report_at_s:
            self._report_at_s = now_s + _DROP_LOG_INTERVAL_S
            log_event("webhook_messages_dropped", level="error", message_id=waiting.id, dropped=self._dropped)

    def _run(self) -> None:
        while True:
            waiting, wait_s = self._take_due()
            if waiting is not None:
                try:
                    self._send(waiting)
                except Exception as error:
                    count_webhook_message("given_up")
                    log_event("webhook_message_failed", level="error", message_id=waiting.id, error=error)
            elif self._is_stopping:
                return
            else:
                self._woken.wait(wait_s)
                self._woken.clear()

    def _take_due(self) -> tuple[_Waiting | None, float | None]:
        """Returns the message to send now, or None and how long to wait, in seconds; without end if that is None."""
        with self._lock:
            self._current = None
            if not self._waiting:
                return None, None
            wait_s = self._waiting[0][0] - time.monotonic()
            if wait_s > 0:
                return None, wait_s
            self._current = heapq.heappop(self._waiting)[2]
            return self._current, None

    def _send(self, waiting: _Waiting) -> None:
        reason = send_message(self.settings, waiting.id, waiting.body)
        waiting.attempts += 1
        if reason is None:
            log_event("webhook_message_delivered", message_id=waiting.id, attempts=waiting.attempts)
            count_webhook_message("delivered")
        elif waiting.attempts > len(PAUSES_S):
            self._give_up(waiting, reason)
        else:
            if waiting.attempts == 1:
                log_event("webhook_message_delayed", level="warning", message_id=waiting.id, reason=reason)
            count_webhook_message("retried")
            pause_s = PAUSES_S[waiting.attempts - 1] * random.uniform(0.8, 1.2)
            self._put(time.monotonic() + pause_s, waiting)

    def _give_up(self, waiting: _Waiting, reason: str) -> None:
        log_event(
            "webhook_message_failed",
            level="error",
            message_id=waiting.id,
            attempts=waiting.attempts,
            reason=reason,
            body=waiting.body.decode(),
        )
        count_webhook_message("given_up")

    def stop(self, timeout_s: float) -> None:
        """Lets messages that have had no attempt be sent for `timeout_s` seconds, and gives up the others."""
        with self._lock:
            self._is_stopping = True
            retries = [entry for entry in self._waiting if entry[2].attempts]
            self._waiting = [entry for entry in self._waiting if not entry[2].attempts]
        self._woken.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._lock:
            left, self._waiting = [*retries, *self._waiting], []
            current, self._current = self._current, None
        for waiting in (*([current] if current else []), *(waiting for _, _, waiting in left)):
            self._give_up(waiting, _STOPPED)

    def close(self) -> None:
        """Gives up what waits, and ends the thread."""
        self.stop(0.0)


def start_webhook() -> None:
    """Makes warnings of budgets go to LIMITS_WEBHOOK, if it is set."""
    webhook = get_component(Webhook)
    if webhook.settings.limits_webhook is not None:
        get_component(Limits).on_warning = webhook.send_warning


def stop_webhook(timeout_s: float) -> None:
    """Ends the messages of this process; see `Webhook.stop`."""
    get_component(Webhook).stop(timeout_s)
