"""Checks the gateway at an address, and the effects of the proxies before it on requests, headers and streams."""

from __future__ import annotations

import http.client
import ipaddress
import json
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from app.doctor.results import Result, fail, ok, warn
from app.doctor.setting_checks import describe_heroku_limit
from app.runtime import get_settings
from app.upstream import get_tls_context
from app.version import get_version

_TIMEOUT_S = 20.0
# The stream's events are 0.3 s apart; behind a proxy that passes them on, first and last are at least this far apart.
_LEAST_SPREAD_S = 0.9
# Values of the header via from Heroku's routers.
_HEROKU_ROUTERS = ("vegur", "heroku")


class _Stream(NamedTuple):
    """The stream as far as it arrived.

    Attributes:
        coding: its compression, as in "gzip"; "identity" without one.
        times_s: the arrival times of the pieces, on the monotonic clock.
        text: the received text; "" if it has a compression that was not requested.
        is_whole: whether it ended like a stream; with such a compression, whether the transfer ended.
    """

    status: int
    coding: str
    times_s: list[float]
    text: str
    is_whole: bool


def check_url(address: str, silence_s: int | None = None) -> Iterator[Result]:
    """Yields the results for a gateway.

    Args:
        address: the address for clients, such as https://gateway.example.com.
        silence_s: how long proxies must wait for a silent answer, in whole seconds; None for slightly longer than the
            longest silence in a stream.
    """
    url = urlsplit(address if "://" in address else f"https://{address}")
    if url.scheme not in {"http", "https"} or not url.hostname:
        yield fail("url", f"{address!r} is not an address. Write it as https://gateway.example.com.")
        return
    checks = {
        "url": _check_answer(url),
        "body_limit": _check_body_limit(url),
        "stream": _check_stream(url, silence_s),
    }
    for name, results in checks.items():
        try:
            yield from results
        except (OSError, http.client.HTTPException, ValueError) as error:
            yield fail(name, f"{url.hostname} does not answer as a gateway ({error}). Look at the proxy and its log.")
            if name == "url":  # Nothing answers, so the others would not either.
                return


def open_connection(url: SplitResult, timeout_s: float = _TIMEOUT_S) -> http.client.HTTPConnection:
    """Returns a connection to the host of an address, opened by its first request; the caller closes it."""
    assert url.hostname is not None
    if url.scheme == "https":
        return http.client.HTTPSConnection(url.hostname, url.port, timeout=timeout_s, context=get_tls_context())
    return http.client.HTTPConnection(url.hostname, url.port, timeout=timeout_s)


def is_gateway(url: SplitResult, timeout_s: float) -> bool:
    """Returns whether a gateway of any version answers at an address within `timeout_s` for each wait."""
    try:
        with closing(open_connection(url, timeout_s)) as connection:
            connection.request("GET", "/health")
            return isinstance(json.loads(connection.getresponse().read(65_536))["version"], str)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return False


def _path(url: SplitResult, path: str) -> str:
    return url.path.rstrip("/") + path


def _check_answer(url: SplitResult) -> Iterator[Result]:
    with closing(open_connection(url)) as connection:
        connection.request("GET", _path(url, "/health"))
        response = connection.getresponse()
        body = response.read(65_536)
    answered = _check_version(response.status, body)
    yield answered
    if any(name in (response.getheader("via") or "") for name in _HEROKU_ROUTERS):
        yield warn("platform", describe_heroku_limit())
    # If something else answered /health, its headers tell nothing about the gateway.
    if answered.status != "fail" and response.getheader("x-request-id") is None:
        yield fail("headers", "the header x-request-id of the answer is gone. Let the proxy pass all headers on.")
    if url.scheme == "http" and not _is_local(str(url.hostname)):
        yield fail("tls", "clients send their keys unencrypted. Let a proxy terminate TLS (deploy/nginx.conf).")


def _check_version(status: int, body: bytes) -> Result:
    try:
        found: Any = json.loads(body)
        version = found["version"]
    except (ValueError, KeyError, TypeError):
        return fail("url", f"/health has status {status} and is not the gateway's. Let the proxy pass it on.")
    if version != get_version():
        return warn("url", f"the gateway there is {version}, and this code {get_version()}. Reload it (SIGHUP).")
    return ok("url", f"the gateway there has this version, {version}")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_body_limit(url: SplitResult) -> Iterator[Result]:
    """Announces a body of MAX_BODY_BYTES without a key: a proxy with a lower limit refuses it by its length."""
    size = get_settings().max_body_bytes
    with closing(open_connection(url)) as connection:
        connection.putrequest("POST", _path(url, "/v1/chat/completions"))
        connection.putheader("Content-Length", str(size))
        connection.putheader("Content-Type", "application/json")
        connection.endheaders()
        assert connection.sock is not None
        connection.sock.settimeout(2.0)
        try:
            status = connection.getresponse().status
        except TimeoutError:
            status = None  # The proxy waits for the body, so it would accept it.
    if status == 413:
        yield fail(
            "body_limit",
            f"the proxy refuses bodies of {size} bytes (MAX_BODY_BYTES). Raise it (nginx: client_max_body_size).",
        )
    else:
        yield ok("body_limit", f"bodies of {size} bytes may be sent")


def _check_stream(url: SplitResult, silence_s: int | None) -> Iterator[Result]:
    keys = get_settings().gateway_api_key
    if not keys:
        yield warn("stream", "GATEWAY_API_KEY is not set here, and the test stream needs it. Set it for this command.")
        return
    seen = _read_stream(url, keys[0])
    if seen.status in {401, 403}:
        yield fail(
            "stream",
            "the gateway there refuses GATEWAY_API_KEY. Use the one that it has, and let the proxy pass the header"
            " Authorization on.",
        )
        return
    if seen.status != 200:
        yield fail("stream", f"the test stream has status {seen.status}. Look at the proxy's log.")
        return
    if seen.coding != "identity":
        yield fail(
            "compression", f"the proxy compresses streams ({seen.coding}), which delays them. Exclude event streams."
        )
    yield from _check_forwarding(url, seen)
    if not seen.is_whole:
        yield fail("stream", "the test stream breaks off, although nothing in it is silent. Look at the proxy's log.")
        return
    spread_s = seen.times_s[-1] - seen.times_s[0]
    if spread_s < _LEAST_SPREAD_S:
        yield fail("buffering", "the proxy holds events back and sends them together. Switch buffering off for /v1.")
    else:
        yield ok("buffering", f"events arrive one by one, over {spread_s:.1f} s")
    yield _check_silence(url, keys[0], silence_s)


def _check_silence(url: SplitResult, key: str, wanted_s: int | None) -> Result:
    """Makes the gateway send nothing for a while, and checks whether a proxy ends the answer meanwhile."""
    heartbeat_s = get_settings().stream_heartbeat_s
    of_streams_s = math.ceil(heartbeat_s + 1)
    silence_s = of_streams_s if wanted_s is None else wanted_s
    seen = None
    with suppress(OSError, http.client.HTTPException):  # The proxy may cut the connection.
        seen = _read_stream(url, key, silence_s)
    if seen is not None and seen.is_whole:
        return ok("silence", f"an answer that is silent for {silence_s} s passes; --silence checks a longer one")
    if seen is not None and seen.status == 400:
        return warn("silence", "the gateway there is too old to be silent. Update it.")
    text = f"a proxy ends answers that are silent for {silence_s} s. Raise its limit (nginx: proxy_read_timeout)"
    if silence_s > of_streams_s:
        return warn("silence", f"{text}, or let clients stream: then something is sent every {heartbeat_s:g} s.")
    return fail("silence", f"{text}: it cuts even streams, which are silent for {heartbeat_s:g} s (STREAM_HEARTBEAT).")


def _check_forwarding(url: SplitResult, seen: _Stream) -> Iterator[Result]:
    """Compares the sent request with the first event's report of it, if that has arrived."""
    first, end, _ = seen.text.partition("data: ")[2].partition("\n")
    if not end:
        return
    arrived = json.loads(first)
    if arrived["scheme"] != url.scheme:
        yield warn(
            "forwarding",
            f"clients use {url.scheme}, and the gateway believes {arrived['scheme']}. Let the proxy send"
            " X-Forwarded-Proto, and name its address in TRUSTED_PROXIES.",
        )
    else:
        yield ok("forwarding", f"the gateway sees {arrived['scheme']} and the client {arrived['client']}")


def _read_stream(url: SplitResult, key: str, silence_s: int = 0) -> _Stream:
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream", "Accept-Encoding": "gzip"}
    pieces, times_s, has_ended = [], [], False
    with closing(open_connection(url, _TIMEOUT_S + silence_s)) as connection:
        connection.request("GET", _path(url, f"/api/diagnostics/stream?silence={silence_s}"), headers=headers)
        response = connection.getresponse()
        begun_s = time.monotonic()
        with suppress(OSError, http.client.HTTPException):  # The proxy may break it off.
            while piece := response.read1(65_536):
                pieces.append(piece)
                times_s.append(time.monotonic())
            has_ended = True
    coding = (response.getheader("content-encoding") or "identity").lower()
    content = b"".join(pieces)
    if coding == "gzip":
        with suppress(zlib.error):
            content = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(content)
    text = content.decode(errors="replace") if coding in {"gzip", "identity"} else ""
    is_whole = has_ended and ("[DONE]" in text or coding not in {"gzip", "identity"})
    return _Stream(response.status, coding, times_s or [begun_s], text, is_whole)
