"""The HTTP client for providers, and the only package that uses requests and urllib3.

client.py           sends a request to a provider
response.py         a response whose head has been received; body.py receives its body, piece by piece or whole
errors.py           failed requests and error responses as errors; delivery.py: one POST to an operator's address
error_body.py, provider_text.py   the message of an error response, without parts that callers must not see
adapter.py          the transport of requests, without the parts that the gateway does not use
connection_pool.py  open connections, and when one may be used again
first_bytes.py      waits for the head of a response
http1.py, transfer_coding.py   the request as bytes, the head of the response, and where its body ends
socket_reader.py    waits for bytes on a socket; ready_sockets.py: how many streams are served before others get a turn
"""

from app.upstream.body import Body
from app.upstream.client import UpstreamClient
from app.upstream.connection_pool import get_tls_context
from app.upstream.delivery import deliver
from app.upstream.error_body import reports_error
from app.upstream.errors import (
    make_first_byte_timeout,
    make_idle_timeout,
    make_reported_error,
    make_total_timeout,
    make_unexpected_error,
    make_unreadable_error,
)
from app.upstream.response import Response
from app.upstream.socket_reader import OnData

__all__ = [
    "Body", "OnData", "Response", "UpstreamClient", "deliver", "get_tls_context", "make_first_byte_timeout",
    "make_idle_timeout", "make_reported_error", "make_total_timeout", "make_unexpected_error",
    "make_unreadable_error", "reports_error",
]  # fmt: skip
