"""`POST /v1/chat/completions`: OpenAI's chat endpoint, which all providers serve natively."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from app.services.endpoints.chat_assembly import ChatCollector, normalise_completion
from app.services.endpoints.chat_chunks import observe_chunk
from app.services.endpoints.chat_events import make_chat_events
from app.services.endpoints.choices import summarize_choices
from app.services.endpoints.endpoint import Endpoint, EventKind, InferenceBody, StreamOptions, make_parameter_error
from app.services.endpoints.prompts import CHARACTERS_PER_TOKEN
from app.services.endpoints.stream_summary import StreamSummary
from app.services.endpoints.token_bounds import bound_chat_tokens

# Each message needs a few more tokens for its role and separators, as OpenAI's cookbook estimates it.
_TOKENS_PER_MESSAGE = 4


class ChatBody(InferenceBody, kw_only=True):
    """The documented fields of a chat request. The ranges are Fireworks' and OpenAI's; `top_k` differs by provider."""

    messages: Annotated[list[Any], Meta(min_length=1, extra={"must": "be a list with at least one message"})]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: int | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stream_options: StreamOptions | None = None
    service_tier: str | None = None

    def __post_init__(self) -> None:
        for position, message in enumerate(self.messages):
            if not isinstance(message, dict):
                raise make_parameter_error(f"messages[{position}]", "be an object with `role` and `content`")


def _estimate_prompt_tokens(body: dict[str, Any]) -> int:
    """Returns an estimate of the tokens in the messages' texts; images and audio are not counted."""
    characters = 0
    for message in body["messages"]:
        content = message.get("content")
        if isinstance(content, str):
            characters += len(content)
        elif isinstance(content, list):
            texts = (part.get("text") for part in content if isinstance(part, dict))
            characters += sum(len(text) for text in texts if isinstance(text, str))
    return -(-characters // CHARACTERS_PER_TOKEN) + _TOKENS_PER_MESSAGE * len(body["messages"])


def _get_output_bound(body: dict[str, Any]) -> int | None:
    return max(body.get("max_tokens") or 0, body.get("max_completion_tokens") or 0) or None


def _estimate_output_tokens(choices: list[dict[str, Any]]) -> int:
    """Returns an estimate of the tokens in the texts of whole choices and in the arguments of their tool calls."""
    characters = 0
    for choice in choices:
        message = choice.get("message") or {}
        calls = message.get("tool_calls")
        functions = (
            [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
        )
        texts = [message.get(name) for name in ("content", "reasoning_content", "reasoning")]
        texts += [function.get("arguments") for function in functions if isinstance(function, dict)]
        characters += sum(len(text) for text in texts if isinstance(text, str))
    return -(-characters // CHARACTERS_PER_TOKEN)


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message"), dict | None)


class ChatStreamProtocol:
    """Chat completion chunks, `[DONE]` at the end."""

    title = "a chat stream"
    heartbeat = b": keep-alive\n\n"

    def request_stream(self, body: dict[str, Any]) -> None:
        """Sets `stream`, and `include_usage` beside the client's own stream options."""
        body["stream"] = True
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}

    def wants_usage(self, body: dict[str, Any]) -> bool:
        """Returns whether the client set `include_usage`."""
        return bool((body.get("stream_options") or {}).get("include_usage"))

    def observe(self, data: bytes, summary: StreamSummary, now_s: float) -> EventKind:
        """Records in `summary` what a chunk contains, and returns its kind; see `StreamProtocol.observe`."""
        if data == b"[DONE]":
            return EventKind.DONE
        if data in {b"null", b""}:
            return EventKind.EMPTY  # Featherless sends `data: null` now and then. SDKs crash on both.
        return observe_chunk(data, summary, now_s)

    def is_complete(self, summary: StreamSummary) -> bool:
        """Returns whether every choice that has begun has its finish reason."""
        return bool(summary.finished) and summary.begun <= summary.finished

    def make_collector(self) -> ChatCollector:
        """Returns a collector of chunks."""
        return ChatCollector()

    def make_events(self, response: dict[str, Any]) -> bytes:
        """Returns the chunks of a whole completion, and `[DONE]`."""
        return make_chat_events(response)


CHAT = Endpoint(
    name="chat",
    path="/v1/chat/completions",
    title="a chat completion",
    body=ChatBody,
    estimate_prompt_tokens=_estimate_prompt_tokens,
    get_output_bound=_get_output_bound,
    bound_tokens=bound_chat_tokens,
    output_field="max_tokens",
    summarize=partial(summarize_choices, is_choice=_is_choice, estimate_output_tokens=_estimate_output_tokens),
    normalise=normalise_completion,
    stream=ChatStreamProtocol(),
)
