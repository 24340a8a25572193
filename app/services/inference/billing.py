"""Decides whether a provider may bill a request that got no response, judging by its error."""

from __future__ import annotations

from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamRefused, UpstreamSuspended

# Errors before a connection was made, so the provider received nothing.
CONNECT_CODES = frozenset({"upstream_unreachable", "upstream_connect_timeout", "upstream_tls_error"})

# With these statuses, a provider may have generated, and so billed, a response that did not arrive.
BILLED_STATUSES = frozenset({408, 504, 524})


def may_be_billed(error: Exception) -> bool:
    """Returns whether a request that ended with this error and without known usage may have to be paid for.

    It need not be if no connection was made, if the status of the provider is that of an error, or if the type of an
    error that replaced the response shows a refusal. In all other cases the response may have been generated, for
    instance if the client left before it. This includes a kept connection that broke, after which the request is sent
    again: usually the provider had closed it before, but it may also have read the request first, and the two cases
    look the same.
    """
    if not isinstance(error, UpstreamError):
        return True
    if error.upstream_status is not None:
        return error.upstream_status in BILLED_STATUSES
    if isinstance(error, UpstreamRefused | UpstreamAuthenticationFailed | UpstreamSuspended):
        return False
    if error.code == "upstream_connection_lost":
        return True
    return not error.is_retryable and error.code != "upstream_tls_error"
