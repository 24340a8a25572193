"""A new endpoint is one file and one row: two toys are added to a copy of the project and called over HTTP.

Providers serve the first natively. The second is translated to chat.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.answers import chat_answer, chunk, json_answer, sse_stream, whole_stream
from tests.support.chat import Seen, request, wait_for_row
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script
from tests.support.tree import copy_tree

# The complete module of the endpoint, whose API has an error shape of its own.
TOY = '''
"""`POST /v1/shout`: answers a text in capitals."""

from __future__ import annotations

import json
from typing import Annotated, Any

from msgspec import Meta

from app.errors import GatewayError
from app.services.endpoints.endpoint import Endpoint, ErrorShape, InferenceBody
from app.services.endpoints.stream_summary import ResponseSummary, Usage


class ShoutBody(InferenceBody, kw_only=True):
    """A text, and how loud it should be."""

    text: str
    volume: Annotated[int, Meta(ge=1, le=11)] | None = None


def _summarize(response: Any) -> ResponseSummary:
    if not isinstance(response, dict) or "shout" not in response:
        raise ValueError
    return ResponseSummary("shouter-1", "done", Usage(prompt_tokens=response["heard"], completion_tokens=2))


def _make_error(error: GatewayError, request_id: str = "") -> bytes:
    return json.dumps({"trouble": error.message, "kind": error.type}).encode()


SHOUT = Endpoint(
    name="shout",
    path="/v1/shout",
    title="a shout",
    body=ShoutBody,
    estimate_prompt_tokens=lambda body: len(body["text"]),
    get_output_bound=lambda body: None,
    bound_tokens=lambda body, content_bytes, context_length: (content_bytes, 1, 2, True),
    summarize=_summarize,
    normalise=lambda response: response | {"shout": response["shout"].upper()},
    errors=ErrorShape(_make_error, _make_error),
)
'''

TOLD = '''
"""`POST /v1/tell`: tells a tale in reply to a text, over chat."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from app.errors import BadRequest, GatewayError, UpstreamError
from app.services.endpoints.chat import CHAT
from app.services.endpoints.endpoint import ErrorShape, InferenceBody
from app.services.endpoints.translation import EventWriter, Translated


class TellBody(InferenceBody, kw_only=True):
    """A request for a tale."""

    about: str


class TellWriter:
    """Writes each text as an event."""

    heartbeat = b": ...\\n\\n"

    def __init__(self, about: str, request_id: str) -> None:
        self._about, self._request_id, self._pieces = about, request_id, 0

    def write(self, data: bytes) -> bytes:
        choices = json.loads(data)["choices"]
        text = choices[0]["delta"].get("content") if choices else None
        if text == "(bad)":
            raise UpstreamError("It tells nothing.")
        self._pieces += bool(text)
        return _make_event({"piece": text}) if text else b""

    def end(self) -> bytes:
        return _make_event({"about": self._about, "pieces": self._pieces, "id": self._request_id})

    def fail(self, error: GatewayError) -> bytes:
        return _make_event({"trouble": error.message})


def _make_event(value: Any) -> bytes:
    return b"event: tale\\ndata: " + json.dumps(value).encode() + b"\\n\\n"


class TellTranslation:
    """Translates both ways."""

    def translate_request(
        self, body: dict[str, Any], fields: TellBody, get_header: Callable[[str], str | None]
    ) -> Translated:
        if fields.about == "nothing":
            raise BadRequest("There is nothing to tell.", param="about")
        chat = {"model": fields.model, "messages": [{"role": "user", "content": fields.about}], "max_tokens": 200_000}
        applied = [f"tone={get_header('x-tone')}->plain"]
        return Translated(chat, [name for name in body if name == "mood"], applied, fields.about)

    def translate_response(self, response: dict[str, Any], context: str, request_id: str) -> dict[str, Any]:
        text = response["choices"][0]["message"]["content"]
        if text == "(bad)":
            raise UpstreamError("It tells nothing.")
        return {"tale": text, "about": context, "id": request_id}

    def make_writer(self, context: str, request_id: str) -> EventWriter:
        return TellWriter(context, request_id)


def _make_error(error: GatewayError, request_id: str) -> bytes:
    return json.dumps({"trouble": error.message, "id": request_id}).encode()


TELL = dataclasses.replace(
    CHAT,
    path="/v1/tell",
    body=TellBody,
    errors=ErrorShape(_make_error, lambda error: b"", lambda error: error.status + 20, "x-tale-id"),
    translation=TellTranslation(),
    clamps_output=True,
)
'''

MODEL = "accounts/fireworks/models/shouter"
LISTED = "accounts/fireworks/models/scripted"


@pytest.fixture(scope="module")
def toy_upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def toy_gateway(
    tmp_path_factory: pytest.TempPathFactory, session_database_url: str, toy_upstream: ScriptedUpstream
) -> Iterator[Gateway]:
    place = tmp_path_factory.mktemp("toy")
    tree = copy_tree(place / "gateway")
    (tree / "app/services/endpoints/shout.py").write_text(TOY.lstrip())
    (tree / "app/services/endpoints/tell.py").write_text(TOLD.lstrip())
    replace(tree / "app/services/endpoints/registry.py", "= (CHAT,", "= (SHOUT, TELL, CHAT,")
    imports = "from app.services.endpoints.shout import SHOUT\nfrom app.services.endpoints.tell import TELL\n"
    replace(
        tree / "app/services/endpoints/registry.py",
        "from app.services.endpoints.chat import CHAT\n",
        "from app.services.endpoints.chat import CHAT\n" + imports,
    )
    # A provider declares with one entry that it serves the endpoint, and at which path.
    replace(
        tree / "app/services/providers/fireworks.py", "serves={", 'serves={"shout": EndpointSupport(path="/shout"), '
    )
    fireworks = {"FIREWORKS_BASE_URL": toy_upstream.base_url, "FIREWORKS_API_KEY": "fw_test"}
    with running_gateway(tree, place, base_settings(place, session_database_url) | fireworks) as gateway:
        yield gateway


def post_tell(gateway: Gateway, about: str, **more: Any) -> Seen:
    body = {"model": LISTED, "about": about} | more
    headers = gateway.headers | {"x-tone": "grim"}
    return request("POST", f"{gateway.url}/v1/tell", json=body, headers=headers)


def get_sent(upstream: ScriptedUpstream) -> Any:
    """Returns the last body that the provider got, apart from requests for its list of models."""
    return [json.loads(seen.body) for seen in upstream.requests if seen.body][-1]


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
    path.write_text(text.replace(old, new))


def test_it_is_forwarded_answered_and_recorded(toy_gateway: Gateway, toy_upstream: ScriptedUpstream) -> None:
    toy_upstream.on_path("/shout", json_answer({"shout": "HELLO", "heard": 1}))
    body = {"model": MODEL, "text": "hello", "volume": 11, "own": {"field": 1}}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert (response.status_code, response.json()) == (200, {"shout": "HELLO", "heard": 1})
    assert response.headers["x-gateway-model"] == "shouter-1"
    assert get_sent(toy_upstream) == body
    log = next(json.loads(line) for line in toy_gateway.log().splitlines() if response.headers["x-request-id"] in line)
    assert (log["path"], log["outcome"], log["prompt_tokens"], log["completion_tokens"]) == ("/v1/shout", "ok", 1, 2)


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        ({"volume": 12}, "`volume` must be a whole number from 1 to 11."),
        ({"text": None}, "`text` is required."),
        ({"text": 5}, "`text` must be a string."),
        ({"stream": True}, "`stream` must be false or absent, because this endpoint does not stream."),
    ],
)
def test_its_body_is_checked_and_its_errors_have_its_own_shape(
    toy_gateway: Gateway, change: dict[str, object], trouble: str
) -> None:
    body = {"model": MODEL, "text": "hello"} | change
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert (response.status_code, response.json()) == (400, {"trouble": trouble, "kind": "invalid_request_error"})


def test_a_missing_key_has_its_shape_too(toy_gateway: Gateway) -> None:
    response = requests.post(f"{toy_gateway.url}/v1/shout", json={}, timeout=20)
    assert (response.status_code, response.json()["kind"]) == (401, "authentication_error")


def test_a_response_that_is_none_of_it_is_an_upstream_error(
    toy_gateway: Gateway, toy_upstream: ScriptedUpstream
) -> None:
    toy_upstream.on_path("/shout", json_answer({"whisper": "hello"}))
    body = {"model": MODEL, "text": "hello"}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert response.status_code == 502 and "not a shout" in response.json()["trouble"]


def test_a_bug_is_a_500_whose_traceback_has_the_request_id(
    toy_gateway: Gateway, toy_upstream: ScriptedUpstream
) -> None:
    toy_upstream.on_path("/shout", json_answer({"shout": 5, "heard": 1}))
    body = {"model": MODEL, "text": "hello"}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert response.status_code == 500 and "x-request-id" in response.json()["trouble"]
    lines = [json.loads(line) for line in toy_gateway.log().splitlines() if response.headers["x-request-id"] in line]
    assert sorted(line["event"] for line in lines) == ["request", "request_failed"]
    (failed,) = [line for line in lines if line["event"] == "request_failed"]
    assert "AttributeError: 'int' object has no attribute 'upper'" in failed["traceback"]


def test_a_provider_without_it_is_named(toy_gateway: Gateway) -> None:
    body = {"model": "x", "text": "hello", "provider": "chutes"}
    response = requests.post(f"{toy_gateway.url}/v1/shout", json=body, headers=toy_gateway.headers, timeout=20)
    assert response.status_code == 400
    assert response.json()["trouble"] == "Chutes does not serve /v1/shout. Use one of: Fireworks."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("sends_stream", [False, True], ids=["a whole answer", "a stream"])
def test_a_translated_endpoint_is_served_over_chat(
    toy_gateway: Gateway, toy_upstream: ScriptedUpstream, session_database_url: str, stream: bool, sends_stream: bool
) -> None:
    toy_upstream.on_path(
        "/chat/completions", sse_stream(whole_stream("On", "ce")) if sends_stream else chat_answer("Once")
    )
    seen = post_tell(toy_gateway, "foxes", stream=stream, mood="sad")
    assert seen.status == 200
    if stream:
        told = [json.loads(event.removeprefix(b"event: tale\ndata: ")) for event in seen.events]
        assert "".join(each["piece"] for each in told[:-1]) == "Once"
        assert told[-1] == {"about": "foxes", "pieces": len(told) - 1, "id": seen.request_id}
    else:
        assert seen.json == {"tale": "Once", "about": "foxes", "id": seen.request_id}
    assert seen.headers["x-tale-id"] == seen.request_id
    assert seen.headers["x-gateway-dropped-params"] == "mood"
    # The listed context is 131,072 tokens, and the prompt is estimated at six.
    assert seen.headers["x-gateway-applied-params"] == "tone=grim->plain, max_tokens=200000->131066"
    sent = get_sent(toy_upstream)
    assert sent["messages"] == [{"role": "user", "content": "foxes"}] and "about" not in sent
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["endpoint"], row["outcome"], row["stream"]) == ("/v1/tell", "ok", stream)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost_kind"]) == (11, 3, "unknown")


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        (sse_stream([chunk("Once")], ending="fin"), "upstream_cut"),
        (sse_stream([chunk("Once"), chunk("(bad)")]), "upstream_error"),
    ],
    ids=["cut", "not translatable"],
)
def test_the_writer_tells_of_a_failure(
    toy_gateway: Gateway, toy_upstream: ScriptedUpstream, session_database_url: str, script: Script, outcome: str
) -> None:
    toy_upstream.on_path("/chat/completions", script)
    seen = post_tell(toy_gateway, "foxes", stream=True)
    assert seen.cut and [b'"piece"' in event for event in seen.events] == [True, False]
    assert b'"trouble"' in seen.events[-1] and b'"code"' not in seen.events[-1]
    assert wait_for_row(session_database_url, seen.request_id)["outcome"] == outcome


def test_errors_of_a_path_have_its_status_and_its_id(
    toy_gateway: Gateway, toy_upstream: ScriptedUpstream, session_database_url: str
) -> None:
    refused = post_tell(toy_gateway, "nothing")
    assert (refused.status, refused.json["trouble"]) == (420, "There is nothing to tell.")
    assert wait_for_row(session_database_url, refused.request_id)["status"] == 420
    toy_upstream.on_path("/chat/completions", chat_answer("(bad)"))
    failed = post_tell(toy_gateway, "foxes")
    assert (failed.status, failed.json["trouble"]) == (522, "It tells nothing.")
    others = [
        request("POST", f"{toy_gateway.url}/v1/tell/more", headers=toy_gateway.headers),
        request("POST", f"{toy_gateway.url}/v1/v1/tell", headers=toy_gateway.headers),
        request("GET", f"{toy_gateway.url}/v1/tell", headers=toy_gateway.headers),
        request("POST", f"{toy_gateway.url}/v1/tell"),
    ]
    assert [seen.status for seen in others] == [424, 424, 425, 421]
    for seen in [refused, failed, *others]:
        assert seen.json["id"] == seen.request_id == seen.headers["x-tale-id"]
    assert "error" in request("GET", f"{toy_gateway.url}/v1/nothing").json
