"""A provider over TLS under the real worker, whose records come one by one, several at a time, and cut short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeGateway
from tests.support.answers import DONE, chunk, event_bytes, usage_chunk
from tests.support.chat import PREFIX, post_chat
from tests.support.tls_server import tls_server

EVENTS = [
    *(event_bytes(chunk(f"{number} " + "x" * number * 300)) for number in range(60)),
    event_bytes(chunk(finish="stop")),
    event_bytes(usage_chunk()),
    DONE,
]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = [HEAD, *(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS), b"0\r\n\r\n"]


@pytest.mark.parametrize("every_s", [0.0, 0.01])
def test_streams_over_tls_arrive_whole_and_keep_their_connection(
    make_gateway: MakeGateway, certificate: tuple[Path, Path], every_s: float
) -> None:
    with tls_server(*certificate, WHOLE, every_s) as (port, counts):
        gateway = make_gateway(_settings(certificate, port))
        for _ in range(6):
            seen = post_chat(gateway, PREFIX + "m", stream=True, stream_options={"include_usage": True})
            assert (seen.status, seen.cut, seen.body) == (200, False, b"".join(EVENTS))
        assert len(counts) <= 3  # Two of them asked for the list of models and for prices meanwhile.
        gateway.stop()


def test_a_stream_that_breaks_off_over_tls_ends_in_an_error(
    make_gateway: MakeGateway, certificate: tuple[Path, Path]
) -> None:
    broken = [*WHOLE[:3], b"5\r\nhello\r\nno chunk\r\n"]
    with tls_server(*certificate, broken, 0.05) as (port, _):
        gateway = make_gateway(_settings(certificate, port))
        seen = post_chat(gateway, PREFIX + "m", stream=True)
        assert (seen.status, seen.cut, seen.error["code"]) == (200, True, "upstream_cut")
        assert seen.body.startswith(b"".join(EVENTS[:2]))
        gateway.stop()


def _settings(certificate: tuple[Path, Path], port: int) -> dict[str, str]:
    return {
        "FIREWORKS_API_KEY": "fw_test",
        "FIREWORKS_BASE_URL": f"https://127.0.0.1:{port}/inference/v1",
        "SSL_CERT_FILE": str(certificate[0]),
    }
