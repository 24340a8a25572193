"""A provider's response after its head was received: its status, its headers, and a body still to be received."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from app.config import MAX_NAME_CHARACTERS
from app.errors import UpstreamError
from app.json_structure import count_elements, decode_many, get_structure
from app.lenient_json import decode_leniently
from app.logs import redact
from app.upstream.body import Body
from app.upstream.connection_pool import PooledResponse
from app.upstream.errors import (
    make_idle_timeout,
    make_total_timeout,
    make_unreadable_error,
)

# The size limit of a body that is read whole, so that no provider can fill the memory. The longest completions with
# logprobs are a few megabytes.
MAX_RESPONSE_BYTES = 64 << 20

# The limit on objects, arrays and keys in such a body, so that no provider can block the worker for seconds. A
# completion of 20,000 tokens with twenty alternatives each has this many.
MAX_RESPONSE_ELEMENTS = 2_000_000


class Response:
    """A provider's response.

    Args:
        title: the provider's name in error messages.
        pooled: the response as the connection pool returned it.
        request_id_headers: the headers that may hold the provider's id for the request, in order of preference.

    Attributes:
        title: as above.
        status: the HTTP status.
        headers: by name in lower case.
        request_id: the provider's id for the request, or None.
        body: must be received and, in any case, closed.
    """

    def __init__(self, title: str, pooled: PooledResponse, request_id_headers: Sequence[str]) -> None:
        self.title = title
        self.status = pooled.head.status
        self.headers: Mapping[str, str] = pooled.head.headers
        self.request_id = get_request_id(self.headers, request_id_headers)
        self.body = Body(pooled)

    def read(self, *, idle_timeout_s: float, deadline_s: float, max_bytes: int = MAX_RESPONSE_BYTES) -> bytes:
        """Returns the whole body, and closes it.

        Args:
            idle_timeout_s: the longest wait between two pieces, in seconds.
            deadline_s: when the body must be complete, on the monotonic clock.
            max_bytes: the largest size to accept.

        Raises:
            UpstreamTimeout: one of the two time limits was reached.
            UpstreamCut: the body ended before it was complete, or is not valid.
            UpstreamError: the body is larger than `max_bytes`.
        """
        try:
            content = self.body.take_arrived()
            if content is None:
                content = self._receive_all(idle_timeout_s, deadline_s, max_bytes)
            elif len(content) > max_bytes:
                raise self._make_too_large(max_bytes)
            return content
        finally:
            self.body.close()

    def _receive_all(self, idle_timeout_s: float, deadline_s: float, max_bytes: int) -> bytes:
        pieces, size = [], 0
        while piece := self._receive(idle_timeout_s, deadline_s):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise self._make_too_large(max_bytes)
        return b"".join(pieces)

    def _make_too_large(self, max_bytes: int) -> UpstreamError:
        message = (
            f"{self.title} sent more than {max_bytes} bytes, which the gateway does not accept. Request less at once."
        )
        return UpstreamError(message, should_retry=False)  # A retry would generate it again.

    def peek(self, timeout_s: float) -> bytes:
        """Returns the first bytes of the body without consuming them; `b""` if none come in time.

        Args:
            timeout_s: how long to wait for them, in seconds.
        """
        return self.body.peek(timeout_s)

    def wait_for_start(self, *, idle_timeout_s: float, deadline_s: float) -> bytes:
        """Returns the first bytes of the body without consuming them; arguments and errors as for `read`.

        The result is empty for an empty body.
        """
        start = self._receive(idle_timeout_s, deadline_s)
        self.body.put_back(start)
        return start

    def _receive(self, idle_timeout_s: float, deadline_s: float) -> bytes:
        left_s = deadline_s - time.monotonic()
        try:
            return self.body.receive(max(0.001, min(idle_timeout_s, left_s)))
        except TimeoutError:
            if left_s <= idle_timeout_s:
                raise make_total_timeout(self.title) from None
            raise make_idle_timeout(self.title) from None

    def read_json(self, *, idle_timeout_s: float, deadline_s: float, max_bytes: int = MAX_RESPONSE_BYTES) -> Any:
        """Returns the whole body decoded as JSON (see `decode_leniently`), and closes it. Arguments as for `read`.

        Raises:
            UpstreamError: as for `read`, or the body is not JSON or has more than MAX_RESPONSE_ELEMENTS.
        """
        content = self.read(idle_timeout_s=idle_timeout_s, deadline_s=deadline_s, max_bytes=max_bytes)
        structure = get_structure(content, MAX_RESPONSE_ELEMENTS)
        if structure is not None and count_elements(structure) > MAX_RESPONSE_ELEMENTS:
            raise UpstreamError(
                f"{self.title} sent more than {MAX_RESPONSE_ELEMENTS:,} objects, arrays and keys, which the gateway "
                "does not accept. Request fewer tokens or alternatives."
            )
        try:
            return decode_leniently(content) if structure is None else decode_many(decode_leniently, content)
        except ValueError as error:
            raise make_unreadable_error(self.title) from error


def get_request_id(headers: Mapping[str, str], names: Sequence[str]) -> str | None:
    """Returns the value of the first header in `names` that has a printable one, or None."""
    for name in names:
        value = headers.get(name)
        if value and value.isprintable():
            return redact(value[:MAX_NAME_CHARACTERS])
    return None
