"""`POST /v1/chat/completions`: OpenAI's chat endpoint, which all providers serve natively."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.errors import UpstreamCut
from app.services.endpoints.chat_assembly import ChatCollector, normalise_completion
from app.services.endpoints.endpoint import Endpoint, EventKind, InferenceBody, make_parameter_error
from app.services.endpoints.stream_summary import ResponseSummary, StreamSummary, Usage
from app.services.endpoints.usage import read_usage

# English text has about four characters per token in today's vocabularies, other languages fewer. Each message needs
# a few more tokens for its role and separators. OpenAI's cookbook estimates both in this way.
_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4


class StreamOptions(msgspec.Struct):
    """The documented fields of `stream_options`."""

    include_usage: bool | None = None


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
    return -(-characters // _CHARACTERS_PER_TOKEN) + _TOKENS_PER_MESSAGE * len(body["messages"])


def _get_output_bound(body: dict[str, Any]) -> int | None:
    return max(body.get("max_tokens") or 0, body.get("max_completion_tokens") or 0) or None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class _ChatUsage(msgspec.Struct, gc=False):
    """`usage` in chat completions and their chunks."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None

    def flatten(self) -> Usage:
        prompt, completion = self.prompt_tokens_details, self.completion_tokens_details
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            None if prompt is None else prompt.cached_tokens,
            None if completion is None else completion.reasoning_tokens,
        )


def _summarize(response: Any) -> ResponseSummary:
    choices = response.get("choices") if isinstance(response, dict) else None
    if not isinstance(choices, list) or not all(_is_choice(choice) for choice in choices):
        raise ValueError("not a chat completion")
    model, reason = response.get("model"), choices[0].get("finish_reason") if choices else None
    return ResponseSummary(
        model if isinstance(model, str) else None,
        reason if isinstance(reason, str) else None,
        read_usage(response.get("usage")),
    )


def _is_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("message", {}), dict)


class _Delta(msgspec.Struct, gc=False):
    """What a chunk adds to one choice. Only its presence matters, so any type is accepted."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    finish_reason: str | None = None
    delta: _Delta | None = None


class _Chunk(msgspec.Struct, gc=False):
    """The fields of a chunk that the gateway reads.

    Decoding a chunk into these records takes 2 µs, no more than the byte searches that could classify most chunks
    without decoding, and it detects every malformed one.
    """

    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _ChatUsage | None = None
    error: Any = None


# Not strict, so that token counts written as 12.0 or "12" are accepted.
_decode_chunk = msgspec.json.Decoder(_Chunk, strict=False).decode


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
        try:
            chunk = _decode_chunk(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise UpstreamCut("The provider sent something that is not part of a chat stream. Retry.") from None
        _record_chunk(chunk, summary, now_s)
        if chunk.error is not None:
            return EventKind.ERROR
        return EventKind.CONTENT if chunk.choices or chunk.usage is None else EventKind.USAGE

    def is_complete(self, summary: StreamSummary) -> bool:
        """Returns whether every choice that has begun has its finish reason."""
        return bool(summary.finished) and summary.begun <= summary.finished

    def make_collector(self) -> ChatCollector:
        """Returns a collector of chunks."""
        return ChatCollector()


def _record_chunk(chunk: _Chunk, summary: StreamSummary, now_s: float) -> None:
    summary.events += 1
    if summary.model is None:
        summary.model = chunk.model
    if chunk.usage is not None:
        summary.usage = chunk.usage.flatten()  # The last one is kept: Chutes sends a running total with each chunk.
    for position, choice in enumerate(chunk.choices or ()):
        index = position if choice.index is None else choice.index
        summary.begun.add(index)
        delta = choice.delta
        if delta is not None and (
            delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls or delta.function_call
        ):
            summary.output_events += 1
            summary.last_output_s = now_s
            if summary.first_output_s is None:
                summary.first_output_s = now_s
        if choice.finish_reason:
            summary.finished.add(index)
            summary.finish_reason = summary.finish_reason or choice.finish_reason


CHAT = Endpoint(
    name="chat",
    path="/v1/chat/completions",
    title="a chat completion",
    body=ChatBody,
    estimate_prompt_tokens=_estimate_prompt_tokens,
    get_output_bound=_get_output_bound,
    summarize=_summarize,
    normalise=normalise_completion,
    stream=ChatStreamProtocol(),
)
