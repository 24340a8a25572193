"""`GET /api/diagnostics/stream`: a stream without a provider; it shows `bin/gateway doctor` the effects of proxies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
from flask import Blueprint, request

from app.shutdown import is_draining
from app.web import Response, get_client_address, read_query

bp = Blueprint("diagnostics", __name__, url_prefix="/api/diagnostics")


class StreamQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The query: for how many seconds nothing is sent before the end, to see whether a proxy waits so long."""

    silence: Annotated[int, msgspec.Meta(ge=0, le=3_600)] = 0


EVENTS = 6
INTERVAL_S = 0.3


@bp.get("/stream")
def stream() -> Response:
    """Returns a stream of EVENTS events, one every INTERVAL_S, and the end; the first says how the request arrived."""
    query = read_query(StreamQuery)
    seen = {"scheme": request.scheme, "client": get_client_address()}
    headers = {"cache-control": "no-cache"}
    return Response(_make_events(seen, query.silence), content_type="text/event-stream; charset=utf-8", headers=headers)


def _make_events(seen: dict[str, str], silence_s: float) -> Iterator[bytes]:
    for number in range(EVENTS):
        if number:
            time.sleep(INTERVAL_S)
        yield b"data: " + msgspec.json.encode({"number": number} | (seen if number == 0 else {})) + b"\n\n"
    end_s = time.monotonic() + silence_s
    while (left_s := end_s - time.monotonic()) > 0 and not is_draining():
        time.sleep(min(left_s, INTERVAL_S))
    yield b"data: [DONE]\n\n"
