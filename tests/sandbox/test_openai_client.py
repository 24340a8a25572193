"""The official OpenAI client against the sandbox: chat, streams, tools, errors and retries."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.sandbox.client import FIREWORKS, KEY, PREFIX, Server
from tests.sandbox.test_tools import TOOLS, WEATHER
from tests.support.sdks import openai

GLM, KIMI = PREFIX + "glm-5p3", PREFIX + "kimi-k3"
HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """An OpenAI client whose retries need no waiting."""
    with openai.OpenAI(base_url=server.url + FIREWORKS, api_key=KEY, max_retries=1, timeout=10) as client:
        yield client


def test_a_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model=GLM, messages=HELLO)
    assert completion.choices[0].message.content.startswith("[sandbox]")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens


def test_a_stream_with_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=GLM, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == client.chat.completions.create(model=GLM, messages=HELLO).choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0


def test_tools_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=KIMI, messages=WEATHER, tools=TOOLS) as stream:
        completion = stream.get_final_completion()
    [call] = completion.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}


def test_the_model_list(client: openai.OpenAI) -> None:
    assert KIMI in [model.id for model in client.models.list()]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("sandbox-401", "AuthenticationError"),
        ("sandbox-403", "PermissionDeniedError"),
        ("sandbox-404", "NotFoundError"),
        ("sandbox-422", "UnprocessableEntityError"),
    ],
)
def test_errors_become_the_clients_exceptions(client: openai.OpenAI, name: str, error: str) -> None:
    with pytest.raises(getattr(openai, error)):
        client.chat.completions.create(model=PREFIX + name, messages=HELLO)


def test_an_error_event_raises_in_the_middle(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=PREFIX + "sandbox-error-event", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="server had an error"):
        list(stream)


def test_the_client_retries_a_flaky_model_by_itself(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "only the retry test sends this"}]
    completion = client.chat.completions.create(model=PREFIX + "sandbox-flaky", messages=messages)
    assert completion.choices[0].finish_reason == "stop"
