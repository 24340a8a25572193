"""The failures of a provider, and whether another target may be tried after each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.faults.scripts import ONCE, answer, raw, stream
from tests.support.answers import chunk, error_event, head, usage_chunk
from tests.support.scripts import Script, close, hang, send

# The settings of the gateway. Nothing is retried at the same target, so each is asked once.
SETTINGS = {
    "UPSTREAM_CONNECT_TIMEOUT": "0.4",
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "1.5",
    "UPSTREAM_IDLE_TIMEOUT": "1.5",
    "UPSTREAM_TOTAL_TIMEOUT": "30",
    "UPSTREAM_RETRIES": "0",
    "STREAM_HEARTBEAT": "9",
}

# The error of servers for a prompt that does not fit.
OVERFLOW = "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."


@dataclass(frozen=True)
class Failure:
    """One failure of a provider.

    Attributes:
        name: a description of the failure.
        script: the provider's script; for streams `streamed`, if that is given.
        shown: its entry in x-gateway-attempts.
        status: the HTTP status that the client gets for this error.
        ends: whether the request ends with it, although other targets remain.
        waits: whether a client is better served with the error of a target that was only overloaded, because a retry
            after this one cannot help, or only after a longer time.
        blames_account: whether it counts for the breakers of the provider's account or key.
        streamed: as above.
        only: "streamed" or "whole" if only such requests can fail this way.
    """

    name: str
    script: Script
    shown: str
    status: int
    ends: bool = False
    waits: bool = False
    blames_account: bool = False
    streamed: Script | None = None
    only: str | None = None

    def get_script(self, *, is_stream: bool) -> Script:
        """Returns the script for a request of this kind."""
        return self.streamed if is_stream and self.streamed is not None else self.script


def _status(status: int, message: str = "Not now.", shown_status: int | None = None, **more: Any) -> Failure:
    headers = more.pop("headers", {})
    script = answer({"error": {"message": message, "type": "invalid_request_error"}}, status, **headers)
    name = more.pop("name", f"answers {status}")
    return Failure(name, script, str(status), shown_status or status, **more)


_CUT: Script = [
    send(head(200, ONCE | {"content-type": "application/json", "content-length": "99"}) + b'{"id"'),
    close(),
]
_SILENT: Script = [send(head(200, ONCE | {"content-type": "application/json", "content-length": "99"})), hang()]

FAILURES = [
    Failure("closes before the head", [close()], "upstream_connection_lost", 502),
    Failure("closes in the head", raw(b"HTTP/1.1 200 OK\r\ncontent-"), "upstream_connection_lost", 502),
    Failure("closes after the head", _CUT, "upstream_cut", 502, streamed=stream([], ending="fin")),
    Failure("is silent before the head", [hang()], "upstream_first_byte_timeout", 504),
    Failure("is silent after the head", _SILENT, "upstream_idle_timeout", 504, streamed=stream([], ending="hang")),
    *(_status(status) for status in (408, 425, 429, 500, 502, 503, 504)),
    _status(429, name="answers 429, retry-after 30", headers={"retry_after": "30"}, waits=True),
    _status(401, blames_account=True, waits=True),
    _status(403, blames_account=True, waits=True),
    _status(402, shown_status=503, blames_account=True, waits=True),
    _status(412, "The account is suspended.", 503, blames_account=True, waits=True),
    _status(404, waits=True),
    _status(400, ends=True),
    _status(413, ends=True),
    _status(422, ends=True),
    Failure("answers 200 with an error", answer(error_event()), "upstream_error", 503),
    Failure("begins its stream with an error", stream([error_event()]), "upstream_error", 503, only="streamed"),
    Failure("answers 200 with no JSON", answer(b"<html>"), "upstream_error", 502, ends=True, only="whole"),
    Failure("cuts the first event", stream([b'data: {"choices"'], ending="fin"), "upstream_cut", 502, only="streamed"),
]

# The failure of targets whose failure is not the point of a test.
OVERLOADED = next(failure for failure in FAILURES if failure.shown == "503")

# The provider reports its usage, and then fails. If the gateway collects the response from a stream, the client has
# received nothing by then.
CHARGED = Failure(
    "reports its usage, and cuts its stream", [], "upstream_cut", 502, streamed=stream([chunk("one"), usage_chunk()])
)

# By the time of this failure, the client has received a part of the answer.
CUT_LATER = stream([chunk("one "), chunk("two")], ending="fin")
