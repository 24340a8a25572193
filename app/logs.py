"""The log: one JSON line on standard error for each request and each notable event, with secrets redacted.

A line is written with one `write`, so that lines of concurrent requests and of several workers never mix. Python's
`logging` is not used: it costs 20 µs per line, five times as much as all other work for a line.
"""

from __future__ import annotations

import json
import os
import re
import time
import traceback
from collections.abc import Iterable
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

# The forms of secrets that a message may contain: our keys, those of the four providers, and anything after "Bearer".
_KEYS = re.compile(
    r"(bearer\s+)[^\s\"',;\\]+"
    # The line is JSON already, so the letter before a key may belong to an escaped line end or tab.
    r"|(?:\b|(?<=\\[bfnrt]))(gw_|fw_|rc_|cpk_|sk-)[a-z0-9_.-]{6,}",
    re.IGNORECASE,
)

# A database URL; its password is between the first colon and the last @. The expression matches everything up to the
# next space or quote: searching for the @ as well would take quadratic time in a text without one.
_DATABASE_URL = re.compile(r"(postgres[a-z0-9+]{0,20}://[^:\s/@\"]{0,200}:)([^\s\"]*)", re.IGNORECASE)

# Every text with a match for one of the expressions contains one of these.
_MARKS = ("gw_", "fw_", "rc_", "cpk_", "sk-", "bearer", "postgres")

# Shorter passwords are words that also occur elsewhere, so hiding them would make the log unreadable.
MIN_SECRET_CHARACTERS = 8

_REDACTED = "[redacted]"


class _Hidden(NamedTuple):
    """The configured secrets: in lower case for a quick search, and as an expression that matches each of them."""

    texts: tuple[str, ...] = ()
    expression: re.Pattern[str] = re.compile("(?!)")


_hidden = _Hidden()

_encode = msgspec.json.Encoder(enc_hook=str).encode

# The request served by the current greenlet, for its tracebacks in the log.
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def set_request_id(request_id: str | None) -> None:
    """Sets the request id for the tracebacks of this greenlet or thread."""
    _request_id.set(request_id)


def get_request_id() -> str | None:
    """Returns the request id of this greenlet or thread, or None."""
    return _request_id.get()


def hide_secrets(secrets: Iterable[str]) -> None:
    """Makes `redact` replace these texts, in any case, and in their forms in JSON and URLs.

    Args:
        secrets: the configured secrets, which replace those of an earlier call. Texts of less than
            MIN_SECRET_CHARACTERS are ignored.
    """
    global _hidden
    forms = {
        form.lower()
        for secret in secrets
        if len(secret) >= MIN_SECRET_CHARACTERS
        for form in (secret, _encode(secret).decode()[1:-1], quote(secret, safe=""), quote(secret))
    }
    longest_first = sorted(forms, key=lambda form: (-len(form), form))  # One secret may contain another.
    pattern = "|".join(map(re.escape, longest_first)) or "(?!)"
    _hidden = _Hidden(tuple(longest_first), re.compile(pattern, re.IGNORECASE))


def redact(text: str) -> str:
    """Returns `text` with configured secrets, and all that looks like a key or a database password, replaced."""
    lowered = text.lower()
    for secret in _hidden.texts:
        if secret in lowered:
            text = _hidden.expression.sub(_REDACTED, text)
            break
    for mark in _MARKS:
        if mark in lowered:
            break
    else:
        return text  # Nearly always, and thirty times faster than the expressions.
    text = _KEYS.sub(lambda match: (match[1] or match[2]) + _REDACTED, text)
    return _DATABASE_URL.sub(_redact_password, text) if "postgres" in lowered else text


def _redact_password(match: re.Match[str]) -> str:
    password, at, rest = match[2].rpartition("@")
    return match[1] + _REDACTED + at + rest if password else match[0]


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _to_json(line: dict[str, Any]) -> str:
    try:
        return _encode(line).decode()
    except UnicodeEncodeError:  # Lone surrogates, which json escapes.
        return json.dumps(line, default=str)


class LineBudget:
    """Limits the lines that strangers can cause: requests without a valid key cost nothing, and could fill the disk.

    A bucket of lines is refilled at a steady rate. The next line logs the number of lines that were left out.
    """

    LINES = 1_000
    LINES_PER_SECOND = 2.0

    def __init__(self) -> None:
        self._left = float(self.LINES)
        self._filled_s = time.monotonic()
        self._omitted = 0

    def take(self) -> bool:
        """Returns whether a line may be written, and counts it."""
        now_s = time.monotonic()
        self._left = min(self._left + (now_s - self._filled_s) * self.LINES_PER_SECOND, float(self.LINES))
        self._filled_s = now_s
        if self._left < 1:
            self._omitted += 1
            return False
        self._left -= 1
        if self._omitted:
            count, self._omitted = self._omitted, 0
            log_event("request_lines_omitted", level="warning", count=count)
        return True


# This process's budget for requests without a valid key.
line_budget = LineBudget()


def log_event(event: str, *, level: str = "info", error: BaseException | None = None, **fields: Any) -> None:
    """Writes one line and never raises.

    Args:
        event: the event, as `noun_participle`, always in the same words.
        level: info, warning or error.
        error: an exception; its traceback is added, with the id of the current request.
        fields: further values of the event.
    """
    milliseconds = time.time_ns() // 1_000_000
    stamp = f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"
    line = {"time": stamp, "level": level, "event": event, **fields}
    if error is not None:
        line.setdefault("request_id", _request_id.get())
        line["traceback"] = "".join(traceback.format_exception(error))
    try:
        os.write(2, redact(_to_json(line)).encode() + b"\n")
    except (OSError, ValueError, TypeError):
        return  # A full disk or a closed terminal must not end a request.
