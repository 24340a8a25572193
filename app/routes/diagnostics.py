"""`GET /api/diagnostics/stream`: a stream without a provider, which shows `bin/gateway doctor` what proxies do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from flask import Blueprint, request

from app.web import Response, get_client_address, read_query

bp = Blueprint("diagnostics", __name__, url_prefix="/api/diagnostics")


class NoQuery(msgspec.Struct):
    """The query: it has no parameters."""


EVENTS = 6
INTERVAL_S = 0.3


@bp.get("/stream")
def stream() -> Response:
    """Returns a stream of EVENTS events, one every INTERVAL_S; the first says how the request arrived."""
    read_query(NoQuery)
    seen = {"scheme": request.scheme, "client": get_client_address()}
    headers = {"cache-control": "no-cache"}
    return Response(_make_events(seen), content_type="text/event-stream; charset=utf-8", headers=headers)


def _make_events(seen: dict[str, str]) -> Iterator[bytes]:
    for number in range(EVENTS):
        if number:
            time.sleep(INTERVAL_S)
        yield b"data: " + msgspec.json.encode({"number": number} | (seen if number == 0 else {})) + b"\n\n"
    yield b"data: [DONE]\n\n"
