"""The messages to LIMITS_WEBHOOK: their text, their signature, and one attempt to send one.

The form and the signature follow Standard Webhooks (standardwebhooks.com), so that receivers can check them with its
libraries: HMAC-SHA-256 over the message's id, the time of the attempt and the body.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import time
from datetime import UTC, datetime

import msgspec

from app.config import Settings
from app.services.limits import BudgetWarning, describe_amount, parse_amount
from app.upstream import deliver

# The total time limit of an attempt, in seconds.
TIMEOUT_S = 5.0

encode_message = msgspec.json.encode


class WarnedSubject(msgspec.Struct, frozen=True, kw_only=True):
    """Whose budget it is: a holder of keys, a group or the gateway, as `GET /api/keys` and `GET /api/groups` list."""

    kind: str
    id: str
    name: str


class WarningData(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of a warning; see `BudgetWarning`. Amounts are decimal numbers in the unit, as texts."""

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
    """Returns the message for a warning. Its id consists of the period and the share, which have one warning."""
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
        body: the body as sent.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def send_message(settings: Settings, message_id: str, body: bytes) -> str | None:
    """Sends a message once.

    Args:
        settings: provide the address, which must be set, and the secret.
        message_id: its id.
        body: a `Message` in JSON.

    Returns:
        None once the receiver has accepted it, else the reason.
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
    """Sends a test message, which says that messages arrive; arguments and result as for `send_message`."""
    message = Message(
        type="test",
        id=f"test-{random.getrandbits(64):016x}",
        timestamp=_format_now(),
        text="This is a test message of the gateway; warnings of budgets look like it.",
        data=None,
    )
    return send_message(settings, message.id, encode_message(message))
