"""A provider over TLS under the real worker, whose TLS records arrive one by one, several at once, and cut short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answers import DONE, chunk, event_bytes, usage_chunk
from tests.support.chat import PREFIX, post_chat
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.soak import soak_only
from tests.support.tls_server import TlsServer

pytestmark = soak_only(
    "upstream/test_connection_pool.py::test_tls_works_with_the_authority_of_the_environment_and_keeps_its_connection"
)

EVENTS = [
    *(event_bytes(chunk(f"{number} " + "x" * number * 300)) for number in range(60)),
    event_bytes(chunk(finish="stop")),
    event_bytes(usage_chunk()),
    DONE,
]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = [HEAD, *(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS), b"0\r\n\r\n"]


@pytest.fixture(scope="module")
def provider(certificate: tuple[Path, Path]) -> Iterator[TlsServer]:
    """The provider that plays Fireworks."""
    with TlsServer(*certificate) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(
    gateways: Gateways, session_database_url: str, provider: TlsServer, certificate: tuple[Path, Path]
) -> Iterator[Gateway]:
    """A gateway that trusts the provider's certificate."""
    settings = {
        "FIREWORKS_API_KEY": "fw_test",
        "FIREWORKS_BASE_URL": f"https://127.0.0.1:{provider.port}/inference/v1",
        "SSL_CERT_FILE": str(certificate[0]),
    }
    with gateways.running(session_database_url, settings) as gateway:
        yield gateway


@pytest.mark.parametrize("every_s", [0.0, 0.005])
def test_streams_over_tls_arrive_whole_and_keep_their_connection(
    gateway: Gateway, provider: TlsServer, every_s: float
) -> None:
    provider.pieces, provider.every_s = WHOLE, every_s
    before = len(provider.counts)
    for _ in range(6):
        seen = post_chat(gateway, PREFIX + "m", stream=True, stream_options={"include_usage": True})
        assert (seen.status, seen.cut, seen.body) == (200, False, b"".join(EVENTS))
    # Requests for the list of models and for prices may have opened two connections meanwhile.
    assert len(provider.counts) - before <= 3


def test_a_stream_that_breaks_off_over_tls_ends_in_an_error(gateway: Gateway, provider: TlsServer) -> None:
    provider.pieces, provider.every_s = [*WHOLE[:3], b"5\r\nhello\r\nno chunk\r\n"], 0.05
    seen = post_chat(gateway, PREFIX + "m", stream=True)
    assert (seen.status, seen.cut, seen.error["code"]) == (200, True, "upstream_cut")
    assert seen.body.startswith(b"".join(EVENTS[:2]))
