"""The stop of this process, and the time that running requests may still take.

The drain is the time between the stop signal and the end of the requests that are still running.
"""

from __future__ import annotations

import time

from app.errors import GatewayShutdown
from app.runtime import Component, Runtime, get_component


class Drain(Component):
    """The drain of one process.

    Attributes:
        deadline_s: its end, on the monotonic clock; None while the process is not stopping.
        is_replaced: whether other processes of the gateway continue to serve in its place.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.deadline_s: float | None = None
        self.is_replaced = False


def start_drain(timeout_s: float, *, replaced: bool = False) -> None:
    """Starts the drain; the end of a running drain stays as it is.

    Args:
        timeout_s: how long running requests may continue, in seconds.
        replaced: whether other processes of the gateway continue to serve in place of this one.
    """
    drain = get_component(Drain)
    drain.is_replaced = replaced
    if drain.deadline_s is None:
        drain.deadline_s = time.monotonic() + timeout_s


def is_draining() -> bool:
    """Returns whether the process is stopping."""
    return get_component(Drain).deadline_s is not None


def is_gateway_stopping() -> bool:
    """Returns whether the process is stopping, and no other one of the gateway continues in its place."""
    drain = get_component(Drain)
    return drain.deadline_s is not None and not drain.is_replaced


def get_drain_left_s() -> float:
    """Returns the remaining seconds of the drain: 0 after it, and before it has begun."""
    deadline_s = get_component(Drain).deadline_s
    return 0.0 if deadline_s is None else max(0.0, deadline_s - time.monotonic())


def raise_if_drained() -> None:
    """Raises GatewayShutdown if the drain is over."""
    deadline_s = get_component(Drain).deadline_s
    if deadline_s is not None and time.monotonic() >= deadline_s:
        raise GatewayShutdown(
            "The gateway is being restarted and could not finish this response. Retry.", retry_after_s=1
        )
