"""Requests with an Idempotency-Key: the first is served and its answer kept, and the others get the same answer."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from tests.support.answers import chat_answer, chunk, json_answer, sse_stream, usage_of, whole_stream
from tests.support.chat import HELLO, PREFIX, Seen, read_until, request, request_head, wait_for_row
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.limited_keys import get_charges, make_limited_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Script, hang, wait_for
from tests.support.sdks import openai
from tests.support.soak import FULL
from tests.support.waiting import PATIENCE_S, wait_until

CHAT = "/v1/chat/completions"
MODEL = PREFIX + "repeated"
_VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
_TEXT = {"choices": [{"index": 0, "text": "Paris", "finish_reason": "stop"}], "usage": usage_of(5, 1)}
_RANKS = {"data": [{"index": 0, "relevance_score": 0.5}], "usage": usage_of(9, 0), "model": "m", "object": "list"}

# Endpoint → its body, the provider's answer, and the provider's path.
ENDPOINTS: dict[str, tuple[dict[str, Any], Script, str]] = {
    CHAT: ({"messages": HELLO}, chat_answer("Hello from the script."), "/chat/completions"),
    "/v1/completions": ({"prompt": "The capital of France is"}, json_answer(_TEXT), "/completions"),
    "/v1/embeddings": (
        {"input": "a text"},
        json_answer({"object": "list", "data": [_VECTOR], "usage": usage_of(2, 0)}),
        "/embeddings",
    ),
    "/v1/rerank": ({"query": "tea", "documents": ["hot"]}, json_answer(_RANKS), "/rerank"),
    "/v2/rerank": ({"query": "tea", "documents": ["hot"]}, json_answer(_RANKS), "/rerank"),
    "/v1/messages": ({"messages": HELLO, "max_tokens": 50}, chat_answer("Hello."), "/chat/completions"),
    "/v1/responses": ({"input": "Hello!"}, chat_answer("Hello."), "/chat/completions"),
}
STREAMED = [CHAT, "/v1/completions", "/v1/messages", "/v1/responses"]


@pytest.fixture(scope="module")
def keeper(gateways: Gateways, session_database_url: str, shared_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """A gateway that keeps answers; under `make soak` it has two workers."""
    settings = {"IDEMPOTENCY_HOURS": "1", "UPSTREAM_FIRST_BYTE_TIMEOUT": "1.5", "UPSTREAM_RETRIES": "0"}
    with gateways.running(
        session_database_url, shared_upstream.settings | settings, workers=2 if FULL else 1
    ) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _scripts_are_for_requests(upstream: ScriptedUpstream) -> None:
    """Reserves enqueued scripts for the tests' requests, because a worker may fetch a list of models at any time."""
    upstream.queues_lists = False


def ask(
    gateway: Gateway, body: dict[str, Any], name: str, path: str = CHAT, key: str | None = None, **headers: str
) -> Seen:
    """Sends a request with an Idempotency-Key."""
    sent = {"Authorization": f"Bearer {key or gateway.key}", "Idempotency-Key": name} | headers
    return request("POST", gateway.url + path, headers=sent, json={"model": MODEL} | body)


def ask_again(gateway: Gateway, body: dict[str, Any], name: str, path: str = CHAT, **more: Any) -> Seen:
    """Repeats a request until the original is no longer running."""
    seen: list[Seen] = []

    def has_ended() -> bool:
        seen.append(ask(gateway, body, name, path, **more))
        return seen[-1].status != 409

    wait_until(has_ended, what="the answer of the first request")
    return seen[-1]


@contextmanager
def open_named(gateway: Gateway, name: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """Sends a chat request with an Idempotency-Key over a bare socket, which is closed at the end of the block."""
    content = json.dumps({"model": MODEL} | body).encode()
    head = request_head(gateway, len(content)).replace(b"\r\n\r\n", f"\r\nIdempotency-Key: {name}\r\n\r\n".encode())
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as connection:
        connection.sendall(head + content)
        yield connection


def check_replay(first: Seen, again: Seen) -> None:
    """Checks that an answer is a replay of another one."""
    assert (again.status, again.body, again.cut) == (first.status, first.body, first.cut), (first, again)
    own = {"date", "server-timing", "x-request-id", "request-id", "connection", "keep-alive"}
    replayed = dict(again.headers)
    assert replayed.pop("idempotent-replayed") == "true"
    assert replayed.pop("x-gateway-replay-of") == first.request_id != again.request_id
    if first.status >= 400:
        assert replayed.pop("x-should-retry") == "false"
    kept = {name: value for name, value in first.headers.items() if name not in own | {"x-should-retry"}}
    assert {name: value for name, value in replayed.items() if name not in own} == kept


@pytest.mark.long_form
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_repeated_request_gets_the_same_answer_and_costs_nothing(
    keeper: Gateway, upstream: ScriptedUpstream, session_database_url: str, path: str
) -> None:
    body, script, ending = ENDPOINTS[path]
    for stream in [False, True] if path in STREAMED else [False]:
        upstream.reset_scripts()
        upstream.on_path(ending, sse_stream(whole_stream("one ", "two \u00fc")) if stream else script)
        if path == "/v1/completions" and stream:
            events = [{"choices": [{"index": 0, "text": "Pa", "finish_reason": None}]}]
            events.append({"choices": [{"index": 0, "text": "ris", "finish_reason": "stop"}], "usage": usage_of(5, 2)})
            upstream.on_path(ending, sse_stream([*events, b"data: [DONE]\n\n"]))
        asked = body | ({"stream": True} if stream else {})
        name = str(uuid.uuid4())
        first = ask(keeper, asked, name, path)
        assert first.status == 200 and not first.cut, first.body
        for _ in range(3):  # Several times, so that each worker may get one.
            again = ask(keeper, asked, name, path)
            check_replay(first, again)
        assert len(upstream.calls) == 1
        row = wait_for_row(session_database_url, again.request_id)
        assert (row["cost_usd"], row["cost_kind"], row["outcome"], row["status"]) == (0, "exact", "ok", 200)
        assert (str(row["replay_of"]), row["gateway"], row["stream"]) == (first.request_id, None, stream)
        assert (row["model_requested"], row["prompt_tokens"]) == (MODEL, None)
        assert wait_for_row(session_database_url, first.request_id)["replay_of"] is None

        other = ask(keeper, asked | {"user": "ann"}, name, path)
        assert other.status == 422 and len(upstream.calls) == 1
        shown = other.json["error"]
        assert shown["type"] == "invalid_request_error" and "Idempotency-Key" in shown["message"]


def test_a_key_is_for_one_path_and_one_gateway_key_and_has_a_form(
    keeper: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    name = str(uuid.uuid4())
    body = {"messages": HELLO, "max_tokens": 9}
    first = ask(keeper, body, name)
    seen = ask(keeper, body, name, "/v1/messages")
    assert (seen.status, seen.json["type"]) == (422, "error") and len(upstream.calls) == 1
    other = ask(keeper, body, name, key=make_limited_key(session_database_url))
    assert (other.status, len(upstream.calls)) == (200, 2) and "idempotent-replayed" not in other.headers
    for wrong in ("", "x" * 256, "\u00fc"):
        seen = request(
            "POST",
            keeper.url + CHAT,
            headers=keeper.headers | {"Idempotency-Key": wrong.encode("latin-1")},
            json={"model": MODEL} | body,
        )
        assert (seen.status, seen.error["code"]) == (400, "invalid_idempotency_key")
    check_replay(first, ask(keeper, body, name))
    assert len(upstream.calls) == 2


def test_a_request_that_is_still_running_is_a_409_until_its_answer_is_there(
    keeper: Gateway, upstream: ScriptedUpstream
) -> None:
    gate, name, body = Gate(), str(uuid.uuid4()), {"messages": HELLO, "stream": True}
    upstream.enqueue(sse_stream([chunk("one "), wait_for(gate), *whole_stream("two")]))
    with open_named(keeper, name, body) as connection:
        read_until(connection, b"one ")
        for path, code in ((CHAT, "idempotency_in_progress"), ("/v1/responses", "idempotency_key_reused")):
            seen = ask(keeper, body, name, path)
            assert (seen.status, seen.error["code"]) == (409 if path == CHAT else 422, code)
            assert ("retry-after" in seen.headers) == (path == CHAT)
        # The client disconnects, but the answer is still received.
    gate.open()
    again = ask_again(keeper, body, name)
    assert again.status == 200 and again.events[-1] == b"data: [DONE]" and not again.cut
    text = "".join(json.loads(event[6:])["choices"][0]["delta"].get("content") or "" for event in again.events[:3])
    assert (text, len(upstream.calls)) == ("one two", 1)


def test_a_whole_answer_is_kept_although_its_client_has_left(keeper: Gateway, upstream: ScriptedUpstream) -> None:
    gate, name, body = Gate(), str(uuid.uuid4()), {"messages": HELLO}
    upstream.enqueue([wait_for(gate), *chat_answer("late")])
    with open_named(keeper, name, body):
        upstream.wait_for(lambda seen: seen.body)
    gate.open()
    again = ask_again(keeper, body, name)
    assert again.json["choices"][0]["message"]["content"] == "late" and len(upstream.calls) == 1


def test_what_cost_nothing_is_forgotten_and_what_may_have_is_kept(keeper: Gateway, upstream: ScriptedUpstream) -> None:
    refusals: list[tuple[dict[str, Any], Script | None]] = [
        ({"messages": []}, None),
        ({"messages": HELLO, "provider": "nobody"}, None),
        ({"messages": HELLO}, json_answer({"error": {"message": "Not now."}}, 503)),
        ({"messages": HELLO}, json_answer({"error": {"message": "Slow down."}}, 429, {"retry-after": "9"})),
        ({"messages": HELLO}, json_answer({"error": {"message": "No."}}, 400)),
    ]
    for body, script in refusals:
        name = str(uuid.uuid4())
        for _ in range(2):
            before = len(upstream.calls)
            if script is not None:
                upstream.enqueue(script)
            seen = ask(keeper, body, name)
            assert seen.status >= 400 and "idempotent-replayed" not in seen.headers
            assert len(upstream.calls) == before + (script is not None)
        assert ask(keeper, {"messages": HELLO}, name).status == 200

    kept: list[tuple[bool, str, Script, int]] = [
        (False, CHAT, [hang()], 504),
        (False, "/v1/messages", json_answer({"error": {"message": "Gone."}}, 504), 504),
        (False, "/v1/responses", json_answer(b'{"no": "chat"}'), 502),
        (True, CHAT, sse_stream([chunk("one ")], ending="fin"), 200),
        (True, "/v1/messages", sse_stream([chunk("one ")], ending="fin"), 200),
        (True, "/v1/responses", sse_stream([chunk("one ")], ending="fin"), 200),
    ]
    for stream, path, script, status in kept:
        name, body = str(uuid.uuid4()), ENDPOINTS[path][0] | {"stream": stream}
        upstream.enqueue(script)
        before = len(upstream.calls)
        first = ask(keeper, body, name, path)
        assert (first.status, first.cut) == (status, stream), first.body
        check_replay(first, ask(keeper, body, name, path))
        assert len(upstream.calls) == before + 1


def test_a_replay_counts_for_rates_and_not_for_budgets(
    keeper: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    key = make_limited_key(session_database_url, ("requests", "1"), requests_per_minute=3)
    name, body = str(uuid.uuid4()), {"messages": HELLO, "max_tokens": 9}
    first = ask(keeper, body, name, key=key)
    assert first.status == 200, first.body
    again = [ask(keeper, body, name, key=key) for _ in range(3)]
    assert [seen.status for seen in again] == [200, 200, 429], again
    assert "x-ratelimit-remaining-requests" in again[0].headers
    wait_until(lambda: get_charges(session_database_url, key).get("requests", (0, 0, 0, 0))[3], what="the charge")
    wait_for_row(session_database_url, again[1].request_id)
    assert get_charges(session_database_url, key)["requests"][3] == 1 and len(upstream.calls) == 1


def test_the_database_holds_nothing_that_can_be_read(
    keeper: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    name, word = "invoice-of-ann-" + str(uuid.uuid4()), "Rumpelstiltskin"
    upstream.enqueue(chat_answer(f"My name is {word}."))
    body = {"messages": [{"role": "user", "content": f"Is it {word}?"}]}
    seen = ask(keeper, body, name)
    with psycopg2.connect(session_database_url.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM kept_answer WHERE request_id = %s", (seen.request_id,))
        (row,) = cursor.fetchall()
        cursor.execute("SELECT extract(epoch FROM expires_at - created_at) FROM kept_answer WHERE id = %s", (row[0],))
        assert cursor.fetchone() == (3600,)
    connection.close()
    held = b"|".join(bytes(value) if isinstance(value, memoryview) else str(value).encode() for value in row)
    assert word.encode() in seen.body and len(held) > len(seen.body)
    for plain in (word, name, "ann", keeper.key, "content", "choices"):
        assert plain.encode() not in held
    log = keeper.log()
    assert name not in log and word not in log


def test_while_it_is_off_the_header_is_named_as_ignored(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for path in (CHAT, "/v1/messages", "/v1/responses"):
        for body in ENDPOINTS[path][0], {"stream": True} | ENDPOINTS[path][0], {"messages": 1}:
            upstream.default = sse_stream(whole_stream("one ")) if "stream" in body else chat_answer("Hello.")
            seen = ask(scripted_gateway, body, "one", path)
            assert seen.headers["x-gateway-ignored"] == "idempotency-key" and seen.status in (200, 400)
    seen = request("POST", scripted_gateway.url + CHAT, headers=scripted_gateway.headers, json={"model": MODEL})
    assert "x-gateway-ignored" not in seen.headers


def test_the_sdk_reads_the_same_of_a_replayed_stream(keeper: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(sse_stream(whole_stream("one ", "two ", "three"), cut_at=7))
    client = openai.OpenAI(base_url=keeper.url + "/v1", api_key=keeper.key, max_retries=0)
    read = []
    for _ in range(2):
        with client.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, extra_headers={"Idempotency-Key": "sdk-" + str(upstream.port)}
        ) as stream:
            read.append([piece.model_dump() for piece in stream])
    client.close()
    assert read[0] == read[1] and len(read[0]) == 4 and len(upstream.calls) == 1
