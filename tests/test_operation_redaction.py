"""Configured secrets of any form appear nowhere: not when a provider repeats them, nor in gunicorn's own log."""

from __future__ import annotations

import json
import socket
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.answers import chat_answer, head, json_answer
from tests.support.chat import PREFIX, Seen, post_chat, request, wait_for_row
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import send
from tests.support.waiting import wait_until

# None of them has the shape of a key.
PROVIDER, OPERATOR, PASSWORD = 'Quiet"Willow\\River+9', "Amber/Lantern=Field*3", "plain-canary-word"
SECRETS = (PROVIDER, OPERATOR, PASSWORD)


@pytest.fixture(scope="module")
def served(gateways: Gateways, session_database_url: str, shared_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """A gateway with these secrets."""
    secrets = {
        "DATABASE_URL": session_database_url.replace("postgres@", f"postgres:{PASSWORD}@"),
        "FIREWORKS_API_KEY": PROVIDER,
        "GATEWAY_API_KEY": OPERATOR,
    }
    with gateways.running(session_database_url, shared_upstream.settings | secrets) as gateway:
        yield gateway


def forms(secret: str) -> list[str]:
    """Returns the forms in which a text may contain a secret."""
    return [secret, secret.upper(), json.dumps(secret)[1:-1], urllib.parse.quote(secret, safe="")]


def leaks(text: str) -> list[str]:
    """Returns the secrets that a text contains in some form."""
    return [form for secret in SECRETS for form in forms(secret) if form.lower() in text.lower()]


def send_raw(gateway: Gateway, content: bytes) -> str:
    """Sends bytes and returns everything received until the connection is closed."""
    received = b""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(content)
        with suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                received += piece
    return received.decode("latin-1")


def test_secrets_of_any_form_show_nowhere(
    served: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    told = " and ".join(form for secret in SECRETS for form in forms(secret))
    error = {"message": told, "code": PROVIDER, "param": OPERATOR}
    upstream.on_model("told-400", json_answer({"error": error, "request_id": PROVIDER}, 400))
    upstream.on_model("told-500", json_answer({"error": error}, 500, {"x-request-id": OPERATOR}))
    upstream.on_model("told-model", chat_answer("Hello!", model=PASSWORD))
    body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]}'
    fields = {"content-length": str(len(body)), "x-request-id": OPERATOR, "fireworks-sampling-options": PROVIDER}
    upstream.on_model("told-head", [send(head(200, fields) + body)])

    answers: list[Seen] = [post_chat(served, PREFIX + name) for name in ("told-400", "told-500", "told-model")]
    answers.append(post_chat(served, PREFIX + "told-head"))
    rows = [wait_for_row(session_database_url, answer.request_id) for answer in answers]
    answers.append(request("GET", f"{served.url}/nowhere?key={urllib.parse.quote(OPERATOR)}"))
    metrics = request("GET", f"{served.url}/metrics").body.decode()

    assert [answer.status for answer in answers[:4]] == [400, 500, 200, 200]
    assert "[redacted] and [redacted]" in answers[0].error["message"]
    assert answers[3].headers["fireworks-sampling-options"] == "[redacted]"
    shown = [f"{answer.headers} {answer.body!r}" for answer in (*answers[:2], *answers[3:])]
    shown.append(str(answers[2].headers))  # The body is the provider's answer, which passes unchanged.
    assert leaks("\n".join([*shown, metrics, served.log()])) == []
    assert leaks(str([{name: row[name] for name in row if name != "model_served"} for row in rows])) == []


def test_a_providers_headers_pass_by_name(served: Gateway, upstream: ScriptedUpstream) -> None:
    body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]}'
    shown = {
        "x-ratelimit-remaining-tokens-generated": "215971",
        "x-ratelimit-over-limit": "no",
        "x-ratelimit-limit-requests": "600",
        "fireworks-server-processing-time": "0.642",
        "fireworks-sampling-options": '{"temperature":1.0}',
    }
    hidden = {
        "fireworks-deployment": "accounts/mine/deployments/one",
        "fireworks-backend-host": "10.0.0.1",
        "fireworks-account": "mine",
        "fireworks-num-concurrent-requests": "3",
        "x-ratelimit-account": "mine",
        "fireworks-generation-duration": "1" * 501,
        "set-cookie": "a=b",
        "server": "internal",
    }
    upstream.on_model("named", [send(head(200, {"content-length": str(len(body))} | shown | hidden) + body)])

    headers = post_chat(served, PREFIX + "named").headers

    assert {name: headers[name] for name in shown} == shown
    assert not headers.keys() & (hidden.keys() - {"server"}) and headers.get("server") != "internal"


MALFORMED = {
    "a header without a colon": "GET /health HTTP/1.1\r\nHost: a\r\nAuthorization Bearer {key}\r\n\r\n",
    "a header whose name is the key": "GET /health HTTP/1.1\r\nHost: a\r\n{key} : x\r\n\r\n",
    "a value with a control character": "GET /health HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\0\r\n\r\n",
    "a request line without a version": "GET /health?key={key}\r\nHost: a\r\n\r\n",
    "a request line that is the key": "{key}\r\n\r\n",
    "a method that is the key": "{key} /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a version that is the key": "GET /health {key}\r\nHost: a\r\n\r\n",
    "a transfer coding that is the key": "POST /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {key}\r\n\r\n",
}


def test_gunicorns_own_warnings_have_no_keys(served: Gateway) -> None:
    callers = "gw_" + "0" * 10 + "_" + "canary" * 5  # A key of another gateway, or of a caller of this one.
    answered = ""
    for text in MALFORMED.values():
        for key in (callers, callers.upper(), OPERATOR):
            answered += send_raw(served, text.format(key=key).encode())
    wait_until(lambda: served.log().count("Invalid") >= len(MALFORMED), what="gunicorn's warnings")

    assert leaks(served.log() + answered) == []
    assert "canarycanary" not in (served.log() + answered).lower()
    assert "[redacted]" in served.log()
