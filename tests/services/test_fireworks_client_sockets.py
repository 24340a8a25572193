"""The Python client over real sockets: refused and silent providers, cut streams, and closing early."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from app.errors import UpstreamCut, UpstreamTimeout, UpstreamUnreachable
from app.runtime import use_settings
from app.services.fireworks_client import make_fireworks_request_openai, make_fireworks_request_openai_stream
from tests.services.inference.chat_core import settings_for
from tests.support.answers import chunk, sse_stream, whole_stream
from tests.support.scripted_upstream import ScriptedUpstream, refused_address
from tests.support.scripts import hang

MODEL = "accounts/fireworks/models/deepseek-v3p1"
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        use_settings(settings_for(upstream.base_url))
        yield upstream
    use_settings(None)


def test_both_calls_work_over_one_reused_connection(upstream: ScriptedUpstream) -> None:
    assert make_fireworks_request_openai(MESSAGES, MODEL).choices[0].message.content == "Hello from the script."
    upstream.enqueue(sse_stream(whole_stream("Hel", "lo"), cut_at=3))
    stream = make_fireworks_request_openai_stream(MESSAGES, MODEL)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "Hello"
    assert make_fireworks_request_openai(MESSAGES, MODEL).id == "chatcmpl-scripted"
    assert [seen.reused for seen in upstream.requests] == [False, True, True]
    assert upstream.requests[0].path == "/inference/v1/chat/completions"


def test_a_refused_connection_is_upstream_unreachable() -> None:
    with refused_address() as base_url:
        use_settings(settings_for(base_url))
        for make in (make_fireworks_request_openai, make_fireworks_request_openai_stream):
            with pytest.raises(UpstreamUnreachable) as caught:
                make(MESSAGES, MODEL)
            assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")
            assert caught.value.is_retryable
    use_settings(None)


def test_a_provider_that_does_not_respond_is_a_timeout(upstream: ScriptedUpstream) -> None:
    use_settings(settings_for(upstream.base_url, UPSTREAM_FIRST_BYTE_TIMEOUT="0.05"))
    upstream.enqueue([hang()])
    with pytest.raises(UpstreamTimeout) as caught:
        make_fireworks_request_openai(MESSAGES, MODEL)
    assert (caught.value.status, caught.value.code) == (504, "upstream_first_byte_timeout")
    upstream.wait_for(lambda seen: seen.gone_at is not None)


def test_a_provider_that_falls_silent_is_a_timeout(upstream: ScriptedUpstream) -> None:
    use_settings(settings_for(upstream.base_url, UPSTREAM_IDLE_TIMEOUT="0.05"))
    upstream.enqueue(sse_stream([chunk("Hel"), hang()]))
    stream = make_fireworks_request_openai_stream(MESSAGES, MODEL)
    assert next(stream).choices[0].delta.content == "Hel"
    with pytest.raises(UpstreamTimeout) as caught:
        next(stream)
    assert caught.value.code == "upstream_idle_timeout"


@pytest.mark.parametrize("ending", ["fin", "reset", "half chunk", "end"])
def test_a_cut_stream_raises_after_the_chunks_that_arrived(upstream: ScriptedUpstream, ending: str) -> None:
    upstream.enqueue(sse_stream([chunk("Hel")], ending=ending))
    stream = make_fireworks_request_openai_stream(MESSAGES, MODEL)
    assert next(stream).choices[0].delta.content == "Hel"
    with pytest.raises(UpstreamCut):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("begun", [False, True])
def test_closing_the_iterator_early_ends_the_request(upstream: ScriptedUpstream, begun: bool) -> None:
    upstream.enqueue(sse_stream([chunk("Hel"), hang()]))
    stream = make_fireworks_request_openai_stream(MESSAGES, MODEL)
    if begun:
        next(stream)
    stream.close()
    upstream.wait_for(lambda seen: seen.gone_at is not None)
    stream.close()
    assert list(stream) == []


def test_leaving_the_loop_ends_the_request(upstream: ScriptedUpstream) -> None:
    upstream.enqueue(sse_stream([chunk("Hel"), hang()]))
    for _ in make_fireworks_request_openai_stream(MESSAGES, MODEL):
        break
    gc.collect()
    upstream.wait_for(lambda seen: seen.gone_at is not None)
