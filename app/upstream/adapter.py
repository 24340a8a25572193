"""The transport of requests for one provider, without proxies, cookies and certificate files.

`requests.Session` is not used: its work for cookies, redirects, proxies and `.netrc` costs a third of the throughput,
and each of the four is a hazard here. An entry in `.netrc` replaces the provider's key, and a shared cookie jar mixes
callers. `HTTPAdapter.send` with a prepared request does the rest.
"""

from __future__ import annotations

from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3.response import HTTPResponse

from app.upstream.connection_pool import HttpPool, PooledResponse, make_pool
from app.upstream.http1 import ResponseHead


class UpstreamRequest(PreparedRequest):
    """A request to a provider. The base class would create a dictionary of hooks for each, which nothing here uses."""

    hooks: Any = {"response": []}
    _cookies = None
    _body_position = None

    def __init__(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> None:
        self.method, self.url, self.headers, self.body = method, url, headers, body  # type: ignore[assignment]


class UpstreamAdapter(HTTPAdapter):
    """Sends requests to the host of `base_url`; `send` returns a `PooledResponse`."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self._pool = make_pool(base_url)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HttpPool:
        """Returns the only pool."""
        return self._pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Does nothing: the shared TLS context holds the authorities; reading them for each request costs 10 ms."""

    def request_url(self, request: Any, proxies: Any) -> str:
        """Returns the path and query."""
        return "/" + str(request.url).split("/", 3)[3]

    def build_response(self, req: Any, resp: Any) -> Any:
        """Returns the pool's response unchanged; requests would wrap it in an object with a cookie jar and a lock.

        This is the only place that serves the test library `responses`. It replaces `HTTPAdapter.send` and calls this
        method with a response of urllib3, whose body is in memory.
        """
        return resp if isinstance(resp, PooledResponse) else _SubstituteResponse(req, resp, self._pool)

    def close(self) -> None:
        """Closes the idle connections."""
        super().close()
        self._pool.close()


class _SubstituteResponse(PooledResponse):
    """A response from the test library `responses` in the form of a real one, on a connection that is not used.

    Attributes:
        request, status_code, headers: the attributes of a `requests.Response` that `responses` reads.
    """

    def __init__(self, request: Any, response: HTTPResponse, pool: HttpPool) -> None:
        content = response.read(decode_content=False)
        headers = {name.lower(): response.headers[name] for name in response.headers}  # Repeated ones joined.
        head = ResponseHead(response.status, headers, True, len(content), False, content)
        super().__init__(head, pool._get_conn(), pool)
        self.request, self.status_code, self.headers = request, response.status, headers
