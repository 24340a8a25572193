"""The remaining targets of a request, and the failures after which another target is tried.

Another target is tried only before the client has received anything, and only after a failure that it may not have.
Targets are never tried in parallel, because two responses would have to be paid for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.errors import (
    GatewayError,
    UpstreamAuthenticationFailed,
    UpstreamError,
    UpstreamRefused,
    UpstreamSuspended,
    drop_frames,
)
from app.services.endpoints import InferenceBody
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.billing import CONNECT_CODES
from app.services.routing import Route, Target

# Statuses that concern the target and not the request: the model is gone, it is too early, or the rate is too high.
_TARGETS_REFUSALS = frozenset({404, 425, 429})


def is_targets_failure(error: UpstreamError) -> bool:
    """Returns whether another target may serve a request that failed with this error."""
    if isinstance(error, UpstreamRefused):
        return error.status in _TARGETS_REFUSALS
    if error.upstream_status is not None or isinstance(error, UpstreamAuthenticationFailed | UpstreamSuspended):
        return True
    # An unreadable response may have been charged for in full, and after the total timeout the caller has no time left.
    return error.replaces_response or (error.should_retry is not False and error.code != "upstream_total_timeout")


@dataclass(slots=True)
class Fallback:
    """The targets that a request may still be sent to, and the failures so far.

    Attributes:
        route: the route.
        body, fields: the client's body, and its documented fields.
        remaining: the targets not tried yet, the best first.
        prepared: the requests of targets for which limits were reserved, by provider and model.
        max_tries: how often the request may be sent, to all targets together.
        patience_s: how long a target may be silent while others remain, in seconds; None without a bound.
        failures: the errors of the targets that were tried.
    """

    route: Route
    body: dict[str, Any]
    fields: InferenceBody
    remaining: list[Target]
    max_tries: int
    patience_s: float | None
    prepared: dict[tuple[str, str], UpstreamRequest] = field(default_factory=dict)
    failures: list[tuple[Target, GatewayError]] = field(default_factory=list)

    def add_failure(self, target: Target, error: GatewayError) -> None:
        """Keeps an error while further targets are tried, without its traceback's frames and their sockets."""
        drop_frames(error)
        self.failures.append((target, error))

    def may_repeat(self, error: UpstreamError, tries: int) -> bool:
        """Returns whether the same target may be tried again and each of the others can still be tried."""
        if tries >= self.max_tries - len(self.remaining):
            return False
        return not self.remaining or error.code in CONNECT_CODES
