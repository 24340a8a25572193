"""Checks the collector of traces: sends it a message without spans, which it accepts like any other."""

from __future__ import annotations

import http.client
import os
from collections.abc import Collection, Iterator
from contextlib import closing
from urllib.parse import unquote, urlsplit

from app.doctor.results import Result, ok, warn
from app.doctor.url_checks import open_connection
from app.runtime import get_settings

_TIMEOUT_S = 10.0
_SETTING = "OTEL_EXPORTER_OTLP_ENDPOINT"
# OpenTelemetry's own variable, for collectors that require a key.
_HEADERS_VARIABLE = "OTEL_EXPORTER_OTLP_HEADERS"


def check_traces(mistaken: Collection[str]) -> Iterator[Result]:
    """Reports whether the collector accepts spans, if one is configured. Without it the gateway works all the same.

    Args:
        mistaken: the names of settings that cannot be read.
    """
    endpoint = get_settings().otlp_endpoint
    if endpoint is None or _SETTING in mistaken:
        return
    try:
        status = _send_nothing(f"{endpoint}/v1/traces")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        yield warn(
            "traces",
            f"the collector at {endpoint} does not answer ({reason}), so spans are lost. Start it, or correct"
            f" {_SETTING}.",
        )
        return
    if status in {401, 403}:
        yield warn("traces", f"the collector refuses spans with status {status}. Set its key in {_HEADERS_VARIABLE}.")
    elif not 200 <= status < 300:
        yield warn(
            "traces",
            f"what answers at {endpoint}/v1/traces takes no spans (status {status}). Correct {_SETTING}: the address of"
            " OTLP over HTTP (mostly port 4318) without /v1/traces.",
        )
    else:
        yield ok("traces", f"the collector at {endpoint} takes spans")


def _send_nothing(address: str) -> int:
    """Returns the status for a message without spans, which has no bytes in OTLP's encoding."""
    url = urlsplit(address)
    given = dict(pair.split("=", 1) for pair in os.environ.get(_HEADERS_VARIABLE, "").split(",") if "=" in pair)
    headers = {unquote(name.strip()): unquote(value.strip()) for name, value in given.items()}
    with closing(open_connection(url, _TIMEOUT_S)) as connection:
        connection.request("POST", url.path, b"", {"Content-Type": "application/x-protobuf"} | headers)
        return connection.getresponse().status
