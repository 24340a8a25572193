"""The HTTP client for providers, and the only package that uses requests and urllib3.

client.py           sends a request to a provider
response.py         a response whose head has been received
body.py             receives the body, piece by piece or whole
errors.py           failed requests and error responses as errors of the gateway
error_body.py       the message in the body of an error response
provider_text.py    a provider's texts without what callers must not see
adapter.py          the transport of requests, without what the gateway does not use
connection_pool.py  open connections, and when one may be used again
http1.py            the request as bytes, and the head of the response
transfer_coding.py  where the body ends
socket_reader.py    waits for bytes on a socket
"""

from app.upstream.body import Body
from app.upstream.client import UpstreamClient
from app.upstream.error_body import reports_error
from app.upstream.errors import (
    make_idle_timeout,
    make_reported_error,
    make_total_timeout,
    make_unexpected_error,
    make_unreadable_error,
)
from app.upstream.response import Response

__all__ = [
    "Body",
    "Response",
    "UpstreamClient",
    "make_idle_timeout",
    "make_reported_error",
    "make_total_timeout",
    "make_unexpected_error",
    "make_unreadable_error",
    "reports_error",
]
