"""The Python client for Fireworks: the four documented functions, over the HTTP client that the routes use.

    stream = make_fireworks_request_openai_stream(messages, "accounts/fireworks/models/deepseek-v3p1")
    for chunk in stream:
        if chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="")

They need `FIREWORKS_API_KEY`, in the environment or a dotenv file, but no web server and no database.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

import sseclient

from app.errors import UpstreamError
from app.lenient_json import decode_leniently, encode
from app.runtime import get_settings
from app.services.endpoints import CHAT
from app.services.providers import get_client, get_provider
from app.services.streaming import ClientConnection, EventReader, Relay
from app.upstream import Response, UpstreamClient, make_reported_error, reports_error

_FIREWORKS = get_provider("fireworks")


class ChatObject(dict[str, Any]):
    """A JSON object whose fields can be read as attributes too, as in the OpenAI SDK; absent fields are None."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _as_object(self.get(name))


def _as_object(value: Any) -> Any:
    if isinstance(value, dict):
        return ChatObject(value)
    if isinstance(value, list):
        return [_as_object(item) for item in value]
    return value


def get_fireworks_client() -> UpstreamClient:
    """Returns this process's client for Fireworks' OpenAI-compatible API.

    Raises:
        ConfigurationMissing: FIREWORKS_API_KEY is not set.
    """
    return get_client(_FIREWORKS)


def make_fireworks_request_openai(messages: list[dict[str, Any]], model: str, **params: Any) -> ChatObject:
    """Requests a chat completion from Fireworks.

    Args:
        messages: OpenAI's list of messages.
        model: Fireworks' model id, e.g. `accounts/fireworks/models/deepseek-v3p1`.
        params: any other field of the request (`max_tokens`, `temperature`, `tools`, …), sent as given.

    Returns:
        Fireworks' response, unchanged; `process_fireworks_response` normalises it.

    Raises:
        UpstreamError: the request failed at Fireworks or on the way; the subclass says how.
        ConfigurationMissing: FIREWORKS_API_KEY is not set.
    """
    settings = get_settings()
    body = {**params, "model": model, "messages": messages, "stream": False}
    response = _post(body)
    deadline_s = time.monotonic() + settings.upstream_total_timeout_s
    completion = response.read_json(idle_timeout_s=settings.upstream_idle_timeout_s, deadline_s=deadline_s)
    if reports_error(completion):
        raise make_reported_error(
            response.title,
            _FIREWORKS.key_setting,
            completion,
            headers=response.headers,
            request_id=response.request_id,
        )
    if not isinstance(completion, dict):
        raise UpstreamError(f"{response.title} returned something that is not a chat completion. Retry.")
    return ChatObject(completion)


def make_fireworks_request_openai_stream(messages: list[dict[str, Any]], model: str, **params: Any) -> ChatStream:
    """Requests a streamed chat completion from Fireworks, with the same arguments as for an unstreamed one.

    Returns:
        An iterator over the chunks; closing it early cancels the request at Fireworks. The chunk without choices, which
        contains only usage, is returned only if `stream_options` asks for it.

    Raises:
        UpstreamError: at once if Fireworks refuses, and during the iteration if the stream ends too early.
        ConfigurationMissing: FIREWORKS_API_KEY is not set.
    """
    assert CHAT.stream is not None
    settings = get_settings()
    body = {**params, "model": model, "messages": messages}
    reader = EventReader(
        CHAT,
        _FIREWORKS.title,
        show_usage=CHAT.stream.wants_usage(body),
        key_setting=_FIREWORKS.key_setting,
    )
    CHAT.stream.request_stream(body)
    relay = Relay(
        _post(body),
        reader,
        client=ClientConnection(None),
        settings=settings,
        deadline_s=time.monotonic() + settings.upstream_total_timeout_s,
        on_end=lambda summary, error: None,
    )
    return ChatStream(relay)


def _post(body: dict[str, Any]) -> Response:
    path = _FIREWORKS.serves[CHAT.name].path
    return get_fireworks_client().post(path, encode(body), stream=body["stream"])


class ChatStream(Iterator[ChatObject]):
    """The chunks of one stream. It is not just a generator, because closing one before its start closes nothing."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._chunks = _chunks(relay)

    def __next__(self) -> ChatObject:
        return next(self._chunks)

    def close(self) -> None:
        """Cancels the request at Fireworks; may be called at any time and more than once."""
        self._chunks.close()
        self._relay.close()


def _chunks(relay: Relay) -> Generator[ChatObject, None, None]:
    events = sseclient.SSEClient(relay).events()
    try:
        for event in events:
            if event.data == "[DONE]":
                break
            chunk = decode_leniently(event.data.encode())
            if chunk.get("error"):
                break
            yield ChatObject(chunk)
    finally:
        relay.close()
    if relay.error is not None:
        raise relay.error


def process_fireworks_response(response: dict[str, Any]) -> dict[str, Any]:
    """Returns Fireworks' response to an unstreamed request, normalised: omitted fields are null, all others are kept.

    Args:
        response: a chat completion as Fireworks sends it, or a `ChatObject` of it.

    Returns:
        A plain dictionary in OpenAI's shape, with `content` null if the model gave none.
    """
    plain: dict[str, Any] = decode_leniently(encode(dict(response)))
    normalised: dict[str, Any] = CHAT.normalise(plain)
    return normalised
