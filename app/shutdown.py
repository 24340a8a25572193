"""Whether this process is stopping, and until when running answers may go on."""

from __future__ import annotations

import time

from app.errors import GatewayShutdown

_deadline_s: float | None = None


def begin(drain_timeout_s: float) -> None:
    """Starts the drain: running answers may go on for `drain_timeout_s` seconds. Beginning again changes nothing."""
    global _deadline_s
    if _deadline_s is None:
        _deadline_s = time.monotonic() + drain_timeout_s


def is_draining() -> bool:
    """Tells whether the process is stopping."""
    return _deadline_s is not None


def check() -> None:
    """Raises GatewayShutdown when the drain time is over."""
    if _deadline_s is not None and time.monotonic() >= _deadline_s:
        raise shutdown_error()


def shutdown_error() -> GatewayShutdown:
    """Returns the error that ends an answer which outlives the drain time."""
    return GatewayShutdown("The gateway is being restarted and could not finish this answer. Retry.", retry_after_s=1)
