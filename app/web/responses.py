"""Responses of routes: JSON, and representations that a client may have cached (ETag, 304, gzip)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from flask import request

from app.web.application import Response

# Costs are JSON numbers, like counts, and keep all their digits. Prices of the catalog are strings already.
_encode = msgspec.json.Encoder(decimal_format="number").encode

# The header of responses that no browser or proxy may keep, because they change all the time or only their caller may
# see them.
NO_STORE = {"cache-control": "no-store"}

# Clients may keep a response but must ask each time whether it is current, which costs a 304 without a body.
_CACHE_CONTROL = "no-cache"

# Below this size gzip saves less than decompression costs.
_MIN_GZIP_BYTES = 1_024


class Representation(Protocol):
    """An encoded response body with a validator.

    Attributes:
        etag: the ETag header's value, quoted; weak validators begin with W/.
        body: JSON.
    """

    etag: str
    body: bytes

    def get_gzipped(self) -> bytes:
        """Returns the body compressed with gzip."""


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns a response with `value` as JSON."""
    return Response(_encode(value), status=status, content_type="application/json", headers=headers)


def conditional_response(representation: Representation) -> Response:
    """Returns the representation, with gzip if the client accepts it; 304 without a body if the client has it."""
    use_gzip = len(representation.body) >= _MIN_GZIP_BYTES and request.accept_encodings["gzip"] > 0
    etag = representation.etag
    if use_gzip and etag.startswith('"'):
        etag = etag[:-1] + '-gzip"'  # A strong validator identifies exact bytes, and gzip changes them.
    headers = {"etag": etag, "cache-control": _CACHE_CONTROL, "vary": "accept-encoding"}
    if _client_has(etag):
        return Response(status=304, headers=headers)
    if use_gzip:
        headers["content-encoding"] = "gzip"
    body = representation.get_gzipped() if use_gzip else representation.body
    return Response(body, content_type="application/json", headers=headers)


def choose_content_type(asked: str | None, formats: Mapping[str, str]) -> str:
    """Returns the content type of a response that has several forms; the caller adds `vary: accept`.

    Args:
        asked: the query's `format`, a key of `formats`, which takes precedence over the Accept header; None without it.
        formats: word for the query → content type, with `json`, which is the default.
    """
    if asked is not None:
        return formats[asked]
    default = formats["json"]
    return request.accept_mimetypes.best_match([default, *formats.values()], default)


def _client_has(etag: str) -> bool:
    """Returns whether If-None-Match names `etag`; RFC 9110 section 13.1.2 prescribes the weak comparison."""
    return "If-None-Match" in request.headers and request.if_none_match.contains_weak(etag.strip('W/"'))
