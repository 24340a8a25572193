"""Paths of other APIs that the gateway does not have, and what it offers instead; for the error of an unknown path."""

from __future__ import annotations

# The beginning of a path → what to do, as sentences that follow "There is no path …".
_ABSENT = {
    "/v1/responses/": "The gateway stores no responses, so none can be fetched, continued, cancelled or deleted. Send "
    "the whole conversation in the `input` of POST /v1/responses, and keep what you need of its response.",
}


def find_advice(path: str) -> str | None:
    """Returns what to do in place of calling `path`, or None if that is not known."""
    return next(
        (advice for beginning, advice in _ABSENT.items() if path.startswith(beginning) and path != beginning), None
    )
