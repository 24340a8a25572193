"""A limit on failed sign-ins per address. Each worker counts by itself."""

from __future__ import annotations

import math
import time
from collections import deque
from ipaddress import IPv6Address, IPv6Network, ip_address

from app.errors import GatewayError
from app.runtime import Component, Runtime

FAILURES, PERIOD_S = 5, 60.0
# More addresses than fail in a minute unless somebody tries keys from everywhere; the oldest are forgotten then.
_MAX_ADDRESSES = 10_000


class SignInThrottle(Component):
    """The times of each address's failed sign-ins in the last minute."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._failures: dict[str, deque[float]] = {}

    def raise_if_too_many(self, address: str) -> None:
        """Refuses an address that failed FAILURES times in the last minute.

        Raises:
            GatewayError: a 429, with the seconds after which it may try again.
        """
        times, now_s = self._failures.get(_group(address)), time.monotonic()
        while times and times[0] <= now_s - PERIOD_S:
            times.popleft()
        if times and len(times) >= FAILURES:
            wait_s = times[0] + PERIOD_S - now_s
            raise GatewayError(
                f"There were {FAILURES} failed sign-ins from your address within a minute. Try again in"
                f" {math.ceil(wait_s)} seconds.",
                status=429,
                type="rate_limit_error",
                code="too_many_sign_ins",
                retry_after_s=wait_s,
            )

    def count(self, address: str) -> None:
        """Counts a failed sign-in."""
        group = _group(address)
        times = self._failures.pop(group, None) or deque(maxlen=FAILURES)
        times.append(time.monotonic())
        self._failures[group] = times  # At the end, so that the first is the one whose last failure is the oldest.
        if len(self._failures) > _MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]


def _group(address: str) -> str:
    """Returns the unit that counts as one address: all IPv6 addresses of a customer share the first 64 bits."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(IPv6Network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address
