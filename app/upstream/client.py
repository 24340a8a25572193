"""The client for one provider: sends a request, and returns the response once its head has arrived."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from app.config import Settings
from app.errors import UpstreamAuthenticationFailed, UpstreamError, UpstreamSuspended
from app.lenient_json import decode_as_text
from app.logs import log_event
from app.upstream.adapter import UpstreamAdapter, UpstreamRequest
from app.upstream.errors import make_response_error, make_send_error, make_unreadable_error
from app.upstream.http1 import USER_AGENT
from app.upstream.response import Response

# Error bodies are short, and one that arrives slowly is not worth waiting for.
_MAX_ERROR_BYTES = 64 << 10
_ERROR_IDLE_TIMEOUT_S = 5.0
_ERROR_TOTAL_TIMEOUT_S = 10.0

# A provider may limit the keys in turn many times a second.
_LOG_SWITCHES_EVERY_S = 10.0


class UpstreamClient:
    """Sends requests to a provider's OpenAI-compatible API with its key. All requests of the process share one.

    Args:
        title: the provider's name in error messages.
        base_url: the URL of its API, without a slash at the end.
        api_keys: the gateway's keys for it. One is used until the provider refuses or limits it, then the next.
        key_setting: the name of the setting that holds the key, for error messages.
        settings: the timeouts.
        request_id_headers: the response headers, in lower case, that may hold the provider's id for a request, in
            order of preference.
        headers: further headers for every request.
    """

    def __init__(
        self,
        *,
        title: str,
        base_url: str,
        api_keys: Sequence[str],
        key_setting: str,
        settings: Settings,
        request_id_headers: tuple[str, ...] = ("x-request-id", "cf-ray"),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.title = title
        self.base_url = base_url
        self.key_setting = key_setting
        self.settings = settings
        self._request_id_headers = request_id_headers
        self._adapter = UpstreamAdapter(base_url)
        self._timeout = Timeout(
            connect=settings.upstream_connect_timeout_s, read=settings.upstream_first_byte_timeout_s
        )
        self._headers_of_keys = [
            {
                "Authorization": f"Bearer {key}",
                "User-Agent": USER_AGENT,
                "Accept-Encoding": "identity",
                **(headers or {}),
            }
            for key in api_keys
        ]
        # The headers with the key in use.
        self._headers = self._headers_of_keys[0]
        self._log_switch_at_s = 0.0

    def post(
        self,
        path_or_url: str,
        body: bytes,
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
        first_byte_timeout_s: float | None = None,
    ) -> Response:
        """Sends a JSON request.

        Args:
            path_or_url: a path below the base URL, as in "/chat/completions", or a whole URL on the same host.
            body: the request as JSON.
            stream: whether the request asks for Server-Sent Events; only the Accept header depends on it.
            headers: further headers; they are sent unchanged and must not contain line ends.
            first_byte_timeout_s: how long to wait for the response to begin; UPSTREAM_FIRST_BYTE_TIMEOUT if not given.

        Returns:
            The response, with a status of 2xx and its body still to be received.

        Raises:
            UpstreamError: there was no response in time, or one with another status. Subclasses tell which.
        """
        all_headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if stream else "application/json",
            "Content-Length": str(len(body)),
        }
        if headers:
            all_headers.update(headers)
        url = path_or_url if path_or_url.startswith("http") else self.base_url + path_or_url
        return self._send("POST", url, all_headers, body, first_byte_timeout_s)

    def fetch_json(
        self,
        path_or_url: str,
        params: Mapping[str, str] | None = None,
        *,
        body: bytes | None = None,
        timeout_s: float = 20.0,
    ) -> Any:
        """Fetches a document and returns it decoded; its texts can be written as UTF-8 (see `decode_as_text`).

        Args:
            path_or_url: a path below the base URL, or a whole URL on the same host.
            params: the query.
            body: a JSON query, sent with POST; None for GET.
            timeout_s: how long the whole response may take, in seconds.

        Raises:
            UpstreamError: as for `post`, or the body is incomplete, too large or not JSON.
            ValueError: the URL is on another host.
        """
        url = path_or_url if path_or_url.startswith("http") else self.base_url + path_or_url
        if urlsplit(url)[:2] != urlsplit(self.base_url)[:2]:
            raise ValueError("the provider's key is sent to no other host")
        if params:
            url += "?" + urlencode(params)
        deadline_s = time.monotonic() + timeout_s
        headers = {"Accept": "application/json"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        response = self._send("GET" if body is None else "POST", url, headers, body, first_byte_timeout_s=timeout_s)
        content = response.read(idle_timeout_s=timeout_s, deadline_s=deadline_s)
        try:
            return decode_as_text(content)
        except ValueError as error:
            raise make_unreadable_error(self.title) from error

    def close(self) -> None:
        """Closes the idle connections; those of responses that are still being received stay open."""
        self._adapter.close()

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None,
        first_byte_timeout_s: float | None = None,
    ) -> Response:
        key_headers = self._headers
        request = UpstreamRequest(method, url, key_headers | headers, body)
        timeout = self._timeout
        if first_byte_timeout_s is not None:
            timeout = Timeout(connect=timeout.connect_timeout, read=first_byte_timeout_s)
        try:
            pooled: Any = self._adapter.send(request, stream=True, timeout=timeout)  # type: ignore[arg-type]
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            raise make_send_error(self.title, error) from error
        response = Response(self.title, pooled, self._request_id_headers)
        if 200 <= response.status < 300:
            return response
        refusal = self._read_error(response)
        if len(self._headers_of_keys) > 1 and _concerns_key(refusal):
            return self._send_with_other_keys(request, headers, timeout, key_headers, refusal)
        raise refusal

    def _send_with_other_keys(
        self,
        request: UpstreamRequest,
        headers: dict[str, str],
        timeout: Timeout,
        used: dict[str, str],
        refusal: UpstreamError,
    ) -> Response:
        """Sends a request that was refused or limited again, with the other keys; an accepted key stays in use.

        A refused request was not served, so sending it again costs nothing.

        Raises:
            UpstreamError: the provider accepted a key and failed, or it accepts none. Then it is the first error that
                passes by itself, such as a rate limit, else the first one.
        """
        first = self._headers_of_keys.index(used)
        errors = [refusal]
        for number in (*range(first + 1, len(self._headers_of_keys)), *range(first)):
            key_headers = self._headers_of_keys[number]
            request.headers = key_headers | headers
            try:
                pooled: Any = self._adapter.send(request, stream=True, timeout=timeout)  # type: ignore[arg-type]
            except (requests.RequestException, HTTPError, OSError, ValueError) as failure:
                raise make_send_error(self.title, failure) from failure
            response = Response(self.title, pooled, self._request_id_headers)
            is_good = 200 <= response.status < 300
            if is_good or not _concerns_key(refusal := self._read_error(response)):
                self._use_key(number, errors[0])
                if is_good:
                    return response
                raise refusal
            errors.append(refusal)
        raise next((error for error in errors if error.is_retryable), errors[0])

    def _use_key(self, number: int, reason: UpstreamError) -> None:
        """Uses another key for the next requests. Logs it, but not every time if keys are limited in turn."""
        self._headers = self._headers_of_keys[number]
        now_s = time.monotonic()
        if now_s >= self._log_switch_at_s:
            self._log_switch_at_s = now_s + _LOG_SWITCHES_EVERY_S
            log_event(
                "provider_key_switched",
                level="warning",
                setting=self.key_setting,
                position=number + 1,
                reason=f"status {reason.upstream_status} for the key before",
            )

    def _read_error(self, response: Response) -> UpstreamError:
        """Returns the error for a response whose status is not 2xx."""
        deadline_s = time.monotonic() + _ERROR_TOTAL_TIMEOUT_S
        try:
            content = response.read(
                idle_timeout_s=_ERROR_IDLE_TIMEOUT_S, deadline_s=deadline_s, max_bytes=_MAX_ERROR_BYTES
            )
        except UpstreamError:
            content = b""  # The status alone is informative enough.
        return make_response_error(
            self.title,
            self.key_setting,
            status=response.status,
            headers=response.headers,
            request_id=response.request_id,
            content=content,
        )


def _concerns_key(error: UpstreamError) -> bool:
    """Returns whether a provider refused or limited the key or its account, so that another key may be accepted."""
    return isinstance(error, UpstreamAuthenticationFailed | UpstreamSuspended) or error.upstream_status == 429
