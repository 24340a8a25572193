"""The one way to a provider: sends a request with `requests`, and turns everything that can go wrong into our errors.

`requests.Session` is not used: its work for cookies, redirects, proxies and `.netrc` costs a third of the
throughput, and each of the four is a hazard here (a `.netrc` entry replaces the provider's key; a shared cookie jar
mixes callers). `HTTPAdapter.send` with a prepared request does what is left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import msgspec
import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.response import HTTPResponse
from urllib3.util import Timeout

from app.config import Settings
from app.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from app.upstream.body import Body
from app.upstream.connection_pool import POOL_CLASSES, Reply, tls_context, was_reused
from app.upstream.errors import error_from_answer, get_request_id

# An answer that is collected whole, an unstreamed completion or an error page, is bounded so that no provider can
# fill the memory; the longest completions with logprobs are a few megabytes.
MAX_ANSWER_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10

# Connections are opened as requests need them; the pool only bounds how many are kept for the next ones.
KEPT_CONNECTIONS = 1_000

USER_AGENT = "llm-gateway/0.1"  # Featherless' edge turns default agents away with 404 "Gone.".


class _Response(NamedTuple):
    """What is used of a `requests.Response`, by the same names."""

    status_code: int
    headers: Mapping[str, str]
    raw: Reply | HTTPResponse


class _Adapter(HTTPAdapter):
    """`requests`' transport for one host, without what it does for any host: proxies, cookies, a look at the disk."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        parts = urlsplit(base_url)
        options: dict[str, Any] = {"ssl_context": tls_context()} if parts.scheme == "https" else {}
        pool_class = POOL_CLASSES[parts.scheme]
        self._pool = pool_class(parts.hostname, parts.port, maxsize=KEPT_CONNECTIONS, **options)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the one pool."""
        return self._pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Does nothing: the shared context holds the authorities; reading them for each request costs 10 ms."""

    def request_url(self, request: Any, proxies: Any) -> str:
        """Returns the path and query."""
        return "/" + str(request.url).split("/", 3)[3]

    def build_response(self, req: Any, resp: Any) -> Any:
        """Returns of a `requests.Response` what is asked for here; the rest of one is a cookie jar and a lock."""
        if isinstance(resp, Reply):
            return _Response(resp.head.status, resp.head.headers, resp)
        return super().build_response(req, resp)  # What a test double of the transport answers with.


class Answer:
    """A provider's answer with status 2xx, its head read and its body not yet.

    Attributes:
        headers: its headers, by name in lower case.
        request_id: the provider's id for the request, or None.
        body: to be received piece by piece, and closed.
    """

    def __init__(self, title: str, response: _Response) -> None:
        self.title = title
        self.status = response.status_code
        self.headers = response.headers
        self.request_id = get_request_id(response.headers)
        self.body = Body(response.raw)

    def read(self, *, idle_timeout_s: float, deadline_s: float, max_bytes: int = MAX_ANSWER_BYTES) -> bytes:
        """Reads the whole body and closes it.

        Args:
            idle_timeout_s: the longest wait between two pieces, in seconds.
            deadline_s: when it must be complete, on the monotonic clock.
            max_bytes: how large it may be.

        Raises:
            UpstreamTimeout: one of the two limits was reached.
            UpstreamCut: it ended too early.
            UpstreamError: it is larger than `max_bytes`.
        """
        pieces, size = [], 0
        try:
            while piece := self._receive(idle_timeout_s, deadline_s):
                pieces.append(piece)
                size += len(piece)
                if size > max_bytes:
                    raise UpstreamError(
                        f"{self.title} answered with more than {max_bytes} bytes; nothing can use that."
                    )
            return b"".join(pieces)
        finally:
            self.body.close()

    def _receive(self, idle_timeout_s: float, deadline_s: float) -> bytes:
        left_s = deadline_s - time.monotonic()
        try:
            return self.body.receive(max(0.001, min(idle_timeout_s, left_s)))
        except TimeoutError:
            if left_s <= idle_timeout_s:
                raise total_timeout(self.title) from None
            raise idle_timeout(self.title) from None

    def read_json(self, *, idle_timeout_s: float, deadline_s: float, max_bytes: int = MAX_ANSWER_BYTES) -> Any:
        """Reads the whole body as JSON; raises what `read` raises, and UpstreamError where it is not JSON."""
        content = self.read(idle_timeout_s=idle_timeout_s, deadline_s=deadline_s, max_bytes=max_bytes)
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamError(
                f"{self.title} answered with something that is not JSON. Retry; if it stays, the operator should check "
                "its base URL."
            ) from error


def idle_timeout(title: str) -> UpstreamTimeout:
    """Returns the error for a provider that fell silent in the middle of its answer."""
    return UpstreamTimeout(f"{title} fell silent in the middle of its answer. Retry.", code="upstream_idle_timeout")


def total_timeout(title: str) -> UpstreamTimeout:
    """Returns the error for an answer that took longer than an answer may."""
    return UpstreamTimeout(
        f"{title}'s answer took longer than the gateway allows. Ask for fewer tokens, or the operator for more time.",
        code="upstream_total_timeout",
    )


def _retryable(error: UpstreamError) -> UpstreamError:
    error.is_retryable = True
    return error


class UpstreamClient:
    """Speaks to one provider's OpenAI-compatible API with its key; shared by all requests of the process."""

    def __init__(self, *, title: str, base_url: str, api_key: str, key_setting: str, settings: Settings) -> None:
        self.title = title
        self.base_url = base_url
        self.key_setting = key_setting
        self.settings = settings
        self._adapter = _Adapter(base_url)
        self._timeout = Timeout(
            connect=settings.upstream_connect_timeout_s, read=settings.upstream_first_byte_timeout_s
        )
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
        }

    def post_chat(self, body: bytes, *, stream: bool) -> Answer:
        """Sends one chat completion request.

        Args:
            body: the request as JSON.
            stream: whether it asks for Server-Sent Events; only the Accept header depends on it.

        Returns:
            The answer, status 2xx, its body still to be read.

        Raises:
            UpstreamError: one of its subclasses for every failure and every other status.
        """
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
            "Content-Length": str(len(body)),
        }
        return self._send("POST", self.base_url + "/chat/completions", headers, body)

    def fetch_json(
        self,
        path_or_url: str,
        params: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 20.0,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Any:
        """Fetches a JSON document.

        Args:
            path_or_url: a path below the base URL, or a whole URL on the same host.
            params: its query.
            timeout_s: how long all of it may take, in seconds.
            max_bytes: how large it may be.

        Raises:
            UpstreamError: one of its subclasses for every failure, every other status and a body that is not JSON.
        """
        url = path_or_url if path_or_url.startswith("http") else self.base_url + path_or_url
        if urlsplit(url)[:2] != urlsplit(self.base_url)[:2]:
            raise ValueError("the provider's key is sent to no other host")
        if params:
            url += "?" + urlencode(params)
        deadline_s = time.monotonic() + timeout_s
        answer = self._send("GET", url, {"Accept": "application/json"}, None, first_byte_timeout_s=timeout_s)
        return answer.read_json(idle_timeout_s=timeout_s, deadline_s=deadline_s, max_bytes=max_bytes)

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        first_byte_timeout_s: float | None = None,
    ) -> Answer:
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, url, body
        request.headers = self._headers | headers  # type: ignore[assignment]
        timeout = self._timeout
        if first_byte_timeout_s is not None:
            timeout = Timeout(connect=timeout.connect_timeout, read=first_byte_timeout_s)
        try:
            response: Any = self._adapter.send(request, stream=True, timeout=timeout)  # type: ignore[arg-type]
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            raise self._failure(error) from error
        if 200 <= response.status_code < 300:
            return Answer(self.title, response)
        raise self._refusal(response)

    def _failure(self, error: Exception) -> UpstreamError:
        """Words what `requests` raised before there was an answer, and says whether the request may be sent again."""
        if isinstance(error, ConnectTimeoutError | requests.ConnectTimeout) and not isinstance(
            error, NewConnectionError
        ):
            message = f"{self.title} could not be reached in time. Retry in a moment."
            return _retryable(UpstreamTimeout(message, code="upstream_connect_timeout"))
        if isinstance(error, requests.ReadTimeout):
            message = f"{self.title} did not begin to answer in time. Retry, or ask for less."
            return UpstreamTimeout(message, code="upstream_first_byte_timeout")
        if isinstance(error, requests.exceptions.SSLError):
            message = (
                f"No secure connection to {self.title} could be made. The operator must check its base URL and the "
                "machine's certificates."
            )
            return UpstreamUnreachable(message, code="upstream_tls_error")
        if isinstance(error, NewConnectionError):
            return _retryable(UpstreamUnreachable(f"{self.title} could not be reached. Retry in a moment."))
        message = f"{self.title} closed the connection before it answered. Retry in a moment."
        failure = UpstreamUnreachable(message, code="upstream_connection_lost")
        # A provider that closes an idle connection does so without having read the request. On a fresh connection
        # it may have begun to serve it, and a second one would be paid for too.
        return _retryable(failure) if was_reused(error) else failure

    def _refusal(self, response: _Response) -> UpstreamError:
        answer = Answer(self.title, response)
        try:
            # An error body is short; a provider that drips it is not worth waiting for.
            content = answer.read(idle_timeout_s=5, deadline_s=time.monotonic() + 10, max_bytes=MAX_ERROR_BYTES)
        except UpstreamError:
            content = b""
        return error_from_answer(self.title, self.key_setting, answer.status, answer.headers, content)
