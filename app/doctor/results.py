"""The result of a check."""

from __future__ import annotations

from typing import Literal

import msgspec

from app.logs import redact


class Result(msgspec.Struct, frozen=True):
    """The result of a check.

    Attributes:
        check: the subject, such as `database`.
        status: "ok"; "warn" if the gateway works all the same; or "fail".
        text: the finding and, if there is a problem, its remedy, in one or two sentences.
    """

    check: str
    status: Literal["ok", "warn", "fail"]
    text: str


def ok(check: str, text: str) -> Result:
    """Returns the result of a check that found nothing wrong."""
    return Result(check, "ok", redact(text))


def warn(check: str, text: str) -> Result:
    """Returns the result of a check whose finding does not keep the gateway from working."""
    return Result(check, "warn", redact(text))


def fail(check: str, text: str) -> Result:
    """Returns the result of a check that found a problem to be corrected."""
    return Result(check, "fail", redact(text))
