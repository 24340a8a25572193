"""The errors for requests that a limit of their key refuses; app/errors.py has the others."""

from __future__ import annotations

import math
from collections.abc import Mapping

from app.errors import GatewayError


class LimitReached(GatewayError):
    """A limit of the key, its group or the gateway refuses the request; it can be served later.

    Args:
        limit: the limit's owner and end, the value of `x-gateway-limit`.
        others: further headers of the response.
    """

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        others: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, param=param, retry_after_s=retry_after_s)
        self.limit = limit
        self._others = others or {}

    def headers(self) -> dict[str, str]:
        """Returns the headers of any error, the limit, and `retry-after-ms`, which SDKs prefer to whole seconds."""
        headers = super().headers() | {"x-gateway-limit": self.limit} | dict(self._others)
        if self.retry_after_s is not None:
            headers["retry-after-ms"] = str(max(1, math.ceil(self.retry_after_s * 1000)))
        return headers


class InsufficientQuota(LimitReached):
    """A budget has too little left for this request, and no retry helps until the period ends or it is raised."""

    status = 402
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False
