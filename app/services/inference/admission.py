"""How many requests this worker serves at once, and the bound on them."""

from __future__ import annotations

from app.errors import Unavailable
from app.runtime import get_settings

_live = {True: 0, False: 0}  # By whether the client asked for a stream.


def admit() -> None:
    """Counts a request in; `release` counts it out, and a refused one too.

    Raises:
        Unavailable: MAX_LIVE_REQUESTS are being served already.
    """
    _live[False] += 1
    if _live[False] + _live[True] > get_settings().max_live_requests:
        message = "The gateway serves as many requests as it can. Retry in a moment."
        raise Unavailable(message, code="overloaded", retry_after_s=1)


def become_stream() -> None:
    """Moves a request that was counted in to the streams."""
    _live[False] -= 1
    _live[True] += 1


def release(stream: bool) -> None:
    """Counts a request out."""
    _live[stream] -= 1


def get_live() -> dict[bool, int]:
    """Returns how many requests are being served: by whether they stream."""
    return dict(_live)
