"""The official OpenAI client against the gateway: chat, streams, tools, errors and retries."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.answers import chunk, json_answer, sse_stream, usage_of
from tests.support.chat import HELLO, PREFIX, rows_where
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, hang
from tests.support.sdks import httpx2, openai
from tests.support.waiting import wait_until

MODEL = PREFIX + "deepseek-v3p1"
PIXEL = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
WEATHER = [{"role": "user", "content": "What is the weather in Oslo"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


@contextmanager
def openai_client(gateway: Gateway, retries: int = 0, key: str | None = None) -> Iterator[openai.OpenAI]:
    """An OpenAI client of the gateway."""
    url = f"{gateway.url}/v1"
    with openai.OpenAI(base_url=url, api_key=key or gateway.key, max_retries=retries, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    """A client of the gateway in front of the sandbox."""
    with openai_client(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(scripted_gateway: Gateway) -> Iterator[openai.OpenAI]:
    """A client of the gateway in front of the scripted upstream that retries twice, as the SDK does by default."""
    with openai_client(scripted_gateway, retries=2) as client:
        yield client


def text_of(chunks: list[Any], index: int = 0) -> str:
    pieces = (choice for chunk in chunks for choice in chunk.choices if choice.index == index)
    return "".join(choice.delta.content or "" for choice in pieces)


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content.startswith("[sandbox] Hello!")
    assert answer.choices[0].finish_reason == "stop" and answer.model == MODEL
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_stream_says_the_same_and_shows_no_usage_unasked(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, stream=True))
    whole = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert text_of(chunks) == whole.choices[0].message.content
    assert all(chunk.choices for chunk in chunks)


def test_a_stream_shows_usage_when_asked(client: openai.OpenAI) -> None:
    options = {"include_usage": True}
    *_, last = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, stream_options=options)
    assert last.choices == [] and last.usage.completion_tokens > 0


def test_tools_are_called_in_both_modes_and_answered(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=WEATHER, tools=TOOLS)
    message = whole.choices[0].message
    (call,) = message.tool_calls
    assert whole.choices[0].finish_reason == "tool_calls" and message.content is None
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})

    with client.chat.completions.stream(model=MODEL, messages=WEATHER, tools=TOOLS) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function.arguments == call.function.arguments

    answered = [*WEATHER, message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    answer = client.chat.completions.create(model=MODEL, messages=answered, tools=TOOLS)
    assert '"sunny"' in answer.choices[0].message.content


def test_two_answers_are_two_choices_in_both_modes(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, n=2)
    chunks = list(client.chat.completions.create(model=MODEL, messages=HELLO, n=2, stream=True))
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 2 and texts == [text_of(chunks, index) for index in (0, 1)]


def test_pictures_reach_the_model(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    answer = client.chat.completions.create(model=PREFIX + "kimi-k3", messages=[{"role": "user", "content": parts}])
    assert "You sent 1 image." in answer.choices[0].message.content


def test_an_answer_can_be_asked_for_as_json(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    answer = client.chat.completions.create(model=MODEL, messages=WEATHER, response_format=form)
    assert json.loads(answer.choices[0].message.content) == {"city": "Oslo"}


def test_thoughts_arrive_beside_the_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=PREFIX + "glm-5p3", messages=HELLO)
    chunks = list(client.chat.completions.create(model=PREFIX + "glm-5p3", messages=HELLO, stream=True))
    thought = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    assert thought == whole.choices[0].message.reasoning_content != ""


def test_more_tokens_than_fireworks_gives_unstreamed_are_no_matter(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Write 12 words"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20_480)
    assert answer.usage.completion_tokens == 12 and answer.choices[0].message.content.startswith("[sandbox]")


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_wrong_key_is_an_authentication_error(gateway: Gateway) -> None:
    with openai_client(gateway, key="gw_wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert caught.value.code == "invalid_api_key" and caught.value.request_id


def test_a_bad_parameter_is_a_bad_request_that_names_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="from 0 to 2") as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)
    assert caught.value.param == "temperature" and caught.value.type == "invalid_request_error"


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="deepseek-v3p1"):
        client.chat.completions.create(model="deepseek-v3p9", messages=HELLO)


ERRORS: dict[str, tuple[Script, str, int]] = {
    "400": (json_answer({"error": {"message": "no"}}, 400), "BadRequestError", 1),
    "401": (json_answer({"error": {"message": "no"}}, 401), "AuthenticationError", 1),
    "403": (json_answer({"error": {"message": "no"}}, 403), "PermissionDeniedError", 1),
    "404": (json_answer({"error": {"message": "no"}}, 404), "NotFoundError", 1),
    "422": (json_answer({"detail": "no"}, 422), "UnprocessableEntityError", 1),
    "429": (json_answer({"error": {"message": "no"}}, 429), "RateLimitError", 3),
    "500": (json_answer({"error": {"message": "no"}}, 500), "InternalServerError", 3),
    "503": (json_answer({"error": {"message": "no"}}, 503), "InternalServerError", 3),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_have_their_classes_and_the_gateway_retries_what_may_pass(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    script, error, tries = ERRORS[name]
    upstream.on_model("failing", script)
    with openai_client(scripted_gateway) as client, pytest.raises(getattr(openai, error)):
        client.chat.completions.create(model=PREFIX + "failing", messages=HELLO)
    assert len([seen for seen in upstream.requests if "failing" in str(seen.body)]) == tries


@pytest.mark.parametrize("ending", ["fin", "reset", "half chunk", "end"])
def test_a_stream_that_is_cut_raises(scripted: openai.OpenAI, upstream: ScriptedUpstream, ending: str) -> None:
    upstream.on_model("cut", sse_stream([chunk("one"), lambda exchange: exchange.wait(0.1)], ending=ending))
    stream = scripted.chat.completions.create(model=PREFIX + "cut", messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "one"
    with pytest.raises((openai.APIError, httpx2.RemoteProtocolError), match="before it was complete|Retry"):
        next(stream)


def test_an_error_event_of_the_provider_raises(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=PREFIX + "sandbox-error-event", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError):
        list(stream)


def test_what_a_client_gave_up_and_sent_again_is_linked(
    scripted: openai.OpenAI, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    """After its own timeout, the SDK retries with the same bytes, so the records are linked."""
    model = PREFIX + "given-up"
    upstream.enqueue([hang()], json_answer({"choices": [{"message": {"content": "late"}}], "usage": usage_of(3, 1)}))
    answer = scripted.with_options(timeout=1.5).chat.completions.create(model=model, messages=HELLO)
    assert answer.choices[0].message.content == "late"

    def find_linked() -> Any:
        rows = rows_where(session_database_url, "model_requested", model)
        return rows if len(rows) == 2 and rows[1]["retry_of"] else None

    first, retry = wait_until(find_linked, what="the link")
    assert (first["outcome"], first["client_retry"], retry["outcome"], retry["client_retry"]) == (
        "client_gone",
        0,
        "ok",
        1,
    )
    assert (retry["retry_of"], first["retried_by"]) == (first["request_id"], retry["request_id"])
    assert first["client_agent"] == retry["client_agent"] and first["client_agent"].startswith("OpenAI/Python")
