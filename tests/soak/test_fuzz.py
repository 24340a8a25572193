"""Whatever a client or a provider sends, the gateway responds without a fault, and no worker dies."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.answers import DONE, Event, chunk, event_bytes, head, sse_stream, usage_chunk, whole_stream
from tests.support.chat import HELLO, PREFIX, chat_body, post_chat, request
from tests.support.gateway import GATEWAY_KEY, Gateway
from tests.support.gateways import Gateways
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, close, send
from tests.support.soak import FULL

# A failing example is shown as found: shrinking it over a socket takes longer than reading it.
fuzzed = settings(
    max_examples=2_000 if FULL else 20,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def fuzzed_upstream() -> Iterator[ScriptedUpstream]:
    """The provider of the gateway that is fuzzed."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(gateways: Gateways, session_database_url: str, fuzzed_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """The gateway that is fuzzed; at the end it must have its first worker and no traceback in its log."""
    chosen = fuzzed_upstream.settings | {
        "UPSTREAM_RETRIES": "0",
        "UPSTREAM_IDLE_TIMEOUT": "2",
        "UPSTREAM_FIRST_BYTE_TIMEOUT": "2",
        "CLIENT_SEND_TIMEOUT": "2",
    }
    with gateways.running(session_database_url, chosen) as running:
        workers = running.worker_pids()
        yield running
        assert running.worker_pids() == workers, "a worker died"
        assert "Traceback" not in running.log()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
PARAMETERS = st.sampled_from(
    [
        *("model", "messages", "stream", "stream_options", "temperature", "top_p", "n", "max_tokens", "stop", "tools"),
        *("tool_choice", "response_format", "seed", "user", "logit_bias", "logprobs", "top_logprobs", "provider"),
        *("metadata", "store", "service_tier", "reasoning_effort", "functions"),
    ]
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "tool"]) | JSON, "content": JSON}), max_size=3
)
BODIES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(PARAMETERS, JSON, max_size=8)
    .map(lambda more: {"model": PREFIX + "fuzz", "messages": HELLO, "provider": "fireworks"} | more)
    .map(lambda body: json.dumps(body).encode()),
    MESSAGES.map(lambda messages: json.dumps({"model": PREFIX + "fuzz", "messages": messages}).encode()),
    # A valid body with some bytes changed.
    st.tuples(st.integers(0, 90), st.binary(max_size=3)).map(
        lambda change: _changed(json.dumps(chat_body(PREFIX + "fuzz")).encode(), *change)
    ),
)


def _changed(body: bytes, place: int, by: bytes) -> bytes:
    return body[:place] + by + body[place + len(by) :]


@pytest.mark.soak
@fuzzed
@given(body=BODIES)
def test_any_body_is_answered(gateway: Gateway, body: bytes) -> None:
    headers = {**gateway.headers, "Content-Type": "application/json"}
    check_answer(*ask(gateway, headers, body))


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-_ABCX0123456789", min_size=1, max_size=20) | st.sampled_from(
    ["Authorization", "Content-Type", "Content-Encoding", "Accept", "Expect", "X-Request-Id", "X-Stainless-Retry-Count"]
    + ["Content-Length", "Transfer-Encoding", "Connection", "Host", "X-Forwarded-Proto", "Upgrade", "Accept-Encoding"]
)
VALUES = st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=60) | st.sampled_from(
    [
        "Bearer",
        f"Bearer {GATEWAY_KEY}",
        "chunked",
        "close",
        "100-continue",
        "-1",
        "0",
        "99999999999",
        "gzip",
        "h2c",
        "https",
    ]
)


@pytest.mark.soak
@fuzzed
@given(more=st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_header_is_answered(gateway: Gateway, more: dict[str, str]) -> None:
    lengths = {name for name in more if name.lower() in {"content-length", "transfer-encoding", "expect"}}
    headers = {**gateway.headers, "Content-Type": "application/json"} | more
    body = b"" if lengths else json.dumps(chat_body(PREFIX + "fuzz", provider="fireworks")).encode()
    check_answer(*ask(gateway, headers, body))


@pytest.mark.soak
@fuzzed
@given(cut_at=st.integers(1, 400), compress=st.booleans(), newline=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_stream_is_the_same_however_it_is_cut(
    gateway: Gateway, fuzzed_upstream: ScriptedUpstream, cut_at: int, compress: bool, newline: bytes
) -> None:
    script = sse_stream(whole_stream("Grüße", "世界", "🌍"), cut_at=cut_at, compress=compress, newline=newline)
    fuzzed_upstream.on_model("cut-anywhere", script)
    seen = post_chat(gateway, PREFIX + "cut-anywhere", stream=True, provider="fireworks")
    words = [json.loads(event)["choices"][0]["delta"].get("content") for event in data_of(seen.body)[:-1]]
    assert words == ["Grüße", "世界", "🌍", None] and not seen.cut


EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from([chunk("one"), chunk(finish="stop"), usage_chunk(), DONE, b": comment\n\n", b"data:\n\n"]),
    st.binary(max_size=60),
    JSON.map(lambda value: event_bytes({"choices": value})),
    JSON.map(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n"),
)


@pytest.mark.soak
@fuzzed
@given(events=st.lists(EVENTS, max_size=6), cut_at=st.integers(1, 300), ending=st.sampled_from(["end", "fin"]))
def test_no_stream_lies_whatever_the_provider_sends(
    gateway: Gateway, fuzzed_upstream: ScriptedUpstream, events: list[Event], cut_at: int, ending: str
) -> None:
    fuzzed_upstream.on_model("any-events", sse_stream(events, cut_at=cut_at, ending=ending))
    seen = post_chat(gateway, PREFIX + "any-events", stream=True, provider="fireworks")
    check_end(seen.status, seen.body, seen.cut)


@pytest.mark.soak
@fuzzed
@given(answer=st.binary(max_size=300), status=st.integers(100, 599) | st.none(), stream=st.booleans())
def test_any_bytes_for_an_answer_become_an_error(
    gateway: Gateway, fuzzed_upstream: ScriptedUpstream, answer: bytes, status: int | None, stream: bool
) -> None:
    start = b"" if status is None else head(status, {"content-length": str(len(answer))})
    script: Script = [send(start + answer), close()]
    fuzzed_upstream.on_model("any-bytes", script)
    # A good answer in between, because some statuses open a breaker, and each response is to be tested separately.
    fuzzed_upstream.on_model("in-between", sse_stream(whole_stream("fine")))
    seen = post_chat(gateway, PREFIX + "any-bytes", stream=stream, provider="fireworks")
    if seen.status == 200:
        check_end(seen.status, seen.body, seen.cut)
    else:
        check_answer(seen.status, seen.headers, seen.body)
    post_chat(gateway, PREFIX + "in-between", stream=True, provider="fireworks")


@pytest.mark.soak
def test_the_gateway_is_well_afterwards(gateway: Gateway) -> None:
    assert request("GET", f"{gateway.url}/health").status == 200


def ask(gateway: Gateway, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Sends a request and returns the answer's status, headers and body; (0, {}, b"") where there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    try:
        connection.putrequest("POST", "/v1/chat/completions", skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1"))
        if not {"content-length", "transfer-encoding"} & {name.lower() for name in headers}:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, ValueError):
        return 0, {}, b""  # ValueError is http.client's own, for a header that it refuses to send.
    except http.client.IncompleteRead as error:
        return 200, {}, error.partial
    finally:
        connection.close()


def check_answer(status: int, headers: dict[str, str], body: bytes) -> None:
    """Fails if a response is a fault of the gateway, or an error that is not JSON in the common shape."""
    assert status != 500 or json.loads(body)["error"]["type"] == "upstream_error", body
    if status >= 400:
        assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def data_of(body: bytes) -> list[bytes]:
    """Returns the data of the events in a body."""
    parts = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n")
    return [part.removeprefix(b"data: ") for part in parts if part.startswith(b"data:")]


def check_end(status: int, body: bytes, cut: bool) -> None:
    """Fails unless a stream ended with `[DONE]` properly, or with an error and unfinished."""
    if status != 200:
        check_answer(status, {}, body)
    elif not body.startswith(b"{"):
        # Compared as whole data, because an error's message may quote the provider's data, such as `[DONE]`.
        assert (b"[DONE]" in [data.strip() for data in data_of(body)]) is not cut
