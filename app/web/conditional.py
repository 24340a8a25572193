"""How a route answers with something that the client may already have: ETag, 304 and gzip."""

from __future__ import annotations

from flask import Response, request

from app.services.models import Rendered

# Clients may keep the answer but ask each time whether it still holds, which costs a 304 without a body.
_CACHE_CONTROL = "no-cache"

# Below this a packed body is hardly smaller and still has to be unpacked.
_LEAST_PACKED_BYTES = 1_024


def conditional_answer(rendered: Rendered) -> Response:
    """Returns the answer, packed when the client takes gzip; 304 without a body when it has this version."""
    packs = len(rendered.body) >= _LEAST_PACKED_BYTES and request.accept_encodings["gzip"] > 0
    # A strong validator stands for one form's bytes, so the packed form has its own.
    etag = rendered.etag[:-1] + '-gzip"' if packs and rendered.etag.startswith('"') else rendered.etag
    headers = {"etag": etag, "cache-control": _CACHE_CONTROL, "vary": "accept-encoding"}
    if _has_version(etag):
        return Response(status=304, headers=headers)
    if packs:
        headers["content-encoding"] = "gzip"
    body = rendered.get_gzipped() if packs else rendered.body
    return Response(body, content_type="application/json", headers=headers)


def _has_version(etag: str) -> bool:
    """Tells whether the client says that it has what `etag` names; RFC 9110 §13.1.2 has this compared weakly."""
    return "If-None-Match" in request.headers and request.if_none_match.contains_weak(etag.strip('W/"'))
