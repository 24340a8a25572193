"""The targets that one request may still be sent to, and after which failures another one is tried.

Another target is tried only before the client has received anything, and only after a failure that it may not have. It
is never tried beside the first, because two responses would have to be paid for.
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

# Refusals that concern the target and not the request: the model is gone, it is too early or too much.
_TARGETS_REFUSALS = frozenset({404, 425, 429})


def is_targets_failure(error: UpstreamError) -> bool:
    """Returns whether another target may serve a request that failed like this at one."""
    if isinstance(error, UpstreamRefused):
        return error.status in _TARGETS_REFUSALS
    if error.upstream_status is not None or isinstance(error, UpstreamAuthenticationFailed | UpstreamSuspended):
        return True
    # A response that cannot be read may have been charged for in full, and the caller's time is over once.
    return error.replaces_response or (error.should_retry is not False and error.code != "upstream_total_timeout")


@dataclass(slots=True)
class Fallback:
    """The targets that a request may still be sent to.

    Attributes:
        route: the route.
        body, fields: the client's body, and its documented fields.
        remaining: the targets that were not tried yet, the best first.
        prepared: the requests of targets for which limits were reserved, by provider and model.
        max_tries: how often the request may be sent, to all targets together.
        patience_s: how long a target may be silent while others remain, in seconds; None without a bound.
        failures: what happened at the targets that were tried.
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
        """Keeps an error that another one may follow, without the frames that it passed through and their sockets."""
        drop_frames(error)
        self.failures.append((target, error))

    def may_repeat(self, error: UpstreamError, tries: int) -> bool:
        """Returns whether the same target may be tried again, so that each of the others can still be tried."""
        if tries >= self.max_tries - len(self.remaining):
            return False
        return not self.remaining or error.code in CONNECT_CODES
