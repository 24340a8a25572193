"""Every error that a caller of the gateway can get, and their common shape.

    GatewayError                       500  api_error
    ├── BadRequest                     400  invalid_request_error
    │   ├── BodyTooLarge               413
    │   ├── BodyTooSlow                408
    │   ├── UnsupportedCoding          415
    │   └── Conflict                   409  a name is taken, or an object is needed by others
    ├── LimitReached                   429  rate_limit_error         a limit of the key refuses it; app/limit_errors.py
    │   └── InsufficientQuota          402  insufficient_quota       a budget is used up
    ├── AuthenticationFailed           401  authentication_error     the caller's gateway key
    ├── PermissionDenied               403  permission_error
    ├── NotFound                       404  not_found_error          a path or a model that does not exist
    ├── MethodNotAllowed               405  invalid_request_error
    ├── TooManyRefusals                429  rate_limit_error         it refused too many requests of the caller
    ├── ConfigurationMissing           503  configuration_error      a setting that only the operator can supply
    ├── Unavailable                    503  unavailable_error        overloaded, or a dependency is away
    ├── ClientGone                     499  client_gone              never sent; for logs and records only
    ├── GatewayShutdown                503  gateway_shutdown
    └── UpstreamError                  502  upstream_error           the provider failed or returned an error
        ├── UpstreamRefused            4xx  by status                the provider refused this request
        ├── UpstreamAuthenticationFailed 401/403 upstream_authentication_error  it refused the gateway's own key
        ├── UpstreamSuspended          503  upstream_error           it suspended the operator's account
        ├── UpstreamUnreachable        502  upstream_error           no connection, or it broke before a response
        ├── UpstreamTimeout            504  upstream_timeout
        └── UpstreamCut                502  upstream_error           the response ended before it was complete

The body is `{"error": {"message", "type", "param", "code"}}`, in streams too. `outcome` is the outcome on the record of
a request that ended with the error.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from app.lenient_json import encode

# The message for a mistake in the gateway itself. The log has the traceback with the same id.
FAILED = "The gateway failed to process this request. Report its x-request-id to the operator."


class GatewayError(Exception):
    """An error with an HTTP status and a message that says what to do.

    Attributes:
        status: the HTTP status of the response.
        type: the class of the error, for programs to branch on.
        code: a more specific name, or None.
        param: the request field or the setting at fault, or None.
        retry_after_s: seconds after which a retry makes sense, or None.
        should_retry: the value of `x-should-retry` for the OpenAI SDKs; None leaves the decision to their own rule.
            False is only for errors that stay until someone acts, such as a missing key.
        outcome: the outcome on the record of a request that ended with it.
        attempts: the attempts of the request, for the header `x-gateway-attempts`; None if there was only one.
    """

    status: int = 500
    type: str = "api_error"
    code: str | None = None
    should_retry: bool | None = None
    attempts: str | None = None
    outcome: ClassVar[str] = "rejected"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.status = self.status if status is None else status
        self.type = self.type if type is None else type
        self.code = self.code if code is None else code
        self.should_retry = self.should_retry if should_retry is None else should_retry

    def to_dict(self) -> dict[str, Any]:
        """Returns the error in the common shape: `{"error": {"message", "type", "param", "code"}}`."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def to_json(self) -> bytes:
        """Returns `to_dict` as JSON."""
        return encode(self.to_dict())

    def to_event(self) -> bytes:
        """Returns the error as a Server-Sent Event, for which the OpenAI SDKs raise an exception in mid-stream."""
        return b"data: " + self.to_json() + b"\n\n"

    def headers(self) -> dict[str, str]:
        """Returns the headers of the error: `retry-after` in whole seconds, `x-should-retry`, `x-gateway-attempts`."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        if self.attempts is not None:
            headers["x-gateway-attempts"] = self.attempts
        return headers


class BadRequest(GatewayError):
    """The request is invalid; `param` names the field at fault."""

    status = 400
    type = "invalid_request_error"


class BodyTooLarge(BadRequest):
    """The body is over MAX_BODY_BYTES."""

    status = 413
    code = "body_too_large"


class BodyTooSlow(BadRequest):
    """The body took longer than CLIENT_BODY_TIMEOUT to arrive."""

    status = 408
    code = "body_timeout"


class UnsupportedCoding(BadRequest):
    """The body has a Content-Encoding that the gateway cannot decode."""

    status = 415
    code = "unsupported_content_encoding"

    def headers(self) -> dict[str, str]:
        """Returns the headers of any error, and the accepted codings (RFC 9110 section 15.5.16)."""
        return super().headers() | {"accept-encoding": "gzip"}


class Conflict(BadRequest):
    """The request contradicts what is stored: a name is taken, or an object is still needed by others."""

    status = 409
    code = "conflict"


class AuthenticationFailed(GatewayError):
    """The caller's gateway key is missing, malformed, unknown, revoked or expired."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(GatewayError):
    """The key is valid but is not allowed to do this."""

    status = 403
    type = "permission_error"


class NotFound(GatewayError):
    """There is no such path, model or gateway."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(GatewayError):
    """The path exists, but not with this HTTP method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class TooManyRefusals(GatewayError):
    """The gateway has refused so many requests of this key in a second that it refuses the next ones unread.

    Args:
        request_id: the id of the record that counts this request together with others.
    """

    status = 429
    type = "rate_limit_error"
    code = "too_many_refusals"

    def __init__(self, message: str, *, request_id: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.request_id = request_id


class ConfigurationMissing(GatewayError):
    """A setting that only the operator can supply is missing; a retry cannot succeed."""

    status = 503
    type = "configuration_error"
    should_retry = False


class Unavailable(GatewayError):
    """The gateway cannot serve the request now; a later retry may succeed."""

    status = 503
    type = "unavailable_error"


class GatewayShutdown(GatewayError):
    """The gateway is stopping and its drain time is over."""

    status = 503
    type = "gateway_shutdown"
    code = "gateway_shutdown"
    outcome = "gateway_shutdown"


class ClientGone(GatewayError):
    """The client closed its connection before the response was complete; nginx uses the status 499 for it too."""

    status = 499
    type = "client_gone"
    outcome = "client_gone"

    def __init__(self) -> None:
        super().__init__("The client closed the connection.")


class UpstreamError(GatewayError):
    """The provider failed.

    Attributes:
        upstream_status, upstream_request_id: the provider's status and request id; None if it sent none.
        is_retryable: whether the same request may be sent again, because it cannot have been served.
        retry_after_is_upstreams: whether the provider chose `retry_after_s`; if not, the gateway did.
        replaces_response: whether the provider sent the error in place of a response, with status 200.
    """

    status = 502
    type = "upstream_error"
    outcome = "upstream_error"
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    is_retryable: bool = False
    retry_after_is_upstreams: bool = False
    replaces_response: bool = False


class UpstreamRefused(UpstreamError):
    """The provider responded with a 4xx that concerns this request; its status and message are kept."""


class UpstreamAuthenticationFailed(UpstreamError):
    """The provider refused the gateway's own key, which the operator must correct and not the caller."""

    type = "upstream_authentication_error"
    should_retry = False


class UpstreamSuspended(UpstreamError):
    """The provider suspended the operator's account or requires payment; the account's name is not shown."""

    status = 503
    code = "upstream_account_suspended"
    should_retry = False


class UpstreamUnreachable(UpstreamError):
    """No connection could be made, or it broke before a response arrived."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """One of the four upstream timeouts passed; `code` says which."""

    status = 504
    type = "upstream_timeout"
    outcome = "upstream_timeout"


class UpstreamCut(UpstreamError):
    """The provider's response ended before it was complete, or is not a valid response."""

    code = "upstream_cut"
    outcome = "upstream_cut"


def drop_frames(error: BaseException | None) -> None:
    """Removes the causes of an error, and the frames that it and they passed through; call it after the last use.

    Frames hold the request, its body and its sockets, and often the error itself, so that only the garbage collector
    would free them.
    """
    while error is not None:
        following = error.__cause__ or error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = following
