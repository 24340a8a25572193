"""Whether this process is stopping, and how long running requests may go on.

The drain is the time between the signal to stop and the end of the requests that are still running.
"""

from __future__ import annotations

import time

from app.errors import GatewayShutdown
from app.runtime import Component, Runtime, get_component


class Drain(Component):
    """The drain of one process.

    Attributes:
        deadline_s: when it ends, on the monotonic clock; None while the process is not stopping.
        is_replaced: whether other processes of the gateway serve on in its place.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.deadline_s: float | None = None
        self.is_replaced = False


def start_drain(timeout_s: float, *, replaced: bool = False) -> None:
    """Starts the drain. The end of one that has started is not changed.

    Args:
        timeout_s: how long running requests may go on, in seconds.
        replaced: whether other processes of the gateway serve on in the place of this one.
    """
    drain = get_component(Drain)
    drain.is_replaced = replaced
    if drain.deadline_s is None:
        drain.deadline_s = time.monotonic() + timeout_s


def is_draining() -> bool:
    """Returns whether the process is stopping."""
    return get_component(Drain).deadline_s is not None


def is_gateway_stopping() -> bool:
    """Returns whether the process is stopping, and no other one of the gateway serves on in its place."""
    drain = get_component(Drain)
    return drain.deadline_s is not None and not drain.is_replaced


def get_drain_left_s() -> float:
    """Returns the seconds that are left of the drain: 0 after it, and before it has begun."""
    deadline_s = get_component(Drain).deadline_s
    return 0.0 if deadline_s is None else max(0.0, deadline_s - time.monotonic())


def raise_if_drained() -> None:
    """Raises GatewayShutdown when the drain is over."""
    deadline_s = get_component(Drain).deadline_s
    if deadline_s is not None and time.monotonic() >= deadline_s:
        raise GatewayShutdown(
            "The gateway is being restarted and could not finish this response. Retry.", retry_after_s=1
        )
