"""Answers of inference endpoints: the fields that the gateway guarantees, and those that clients use most.

Providers' answers pass with all their fields.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class TokenUsage(msgspec.Struct, kw_only=True):
    """The tokens that a request used, by the provider's count or, where it does not count, an estimate.

    Attributes:
        prompt_tokens: tokens of the input, with those that were cached.
        completion_tokens: tokens of the output, with those of reasoning.
    """

    prompt_tokens: int | None | UnsetType = UNSET
    completion_tokens: int | None | UnsetType = UNSET
    total_tokens: int | None | UnsetType = UNSET
    prompt_tokens_details: dict[str, Any] | None | UnsetType = UNSET


class ChatAnswerMessage(msgspec.Struct, kw_only=True):
    """The message of the model; providers add `reasoning_content` and other fields.

    Attributes:
        content: null if there are only tool calls, or if reasoning used up the output.
        tool_calls: functions to call, in OpenAI's form.
    """

    role: str
    content: str | None
    reasoning_content: str | None | UnsetType = UNSET
    tool_calls: list[dict[str, Any]] | None | UnsetType = UNSET


class ChatChoice(msgspec.Struct, kw_only=True):
    """One answer of the model.

    Attributes:
        finish_reason: why it ended: stop, length, tool_calls, content_filter, or the provider's own word.
    """

    index: int
    message: ChatAnswerMessage
    finish_reason: str | None
    logprobs: dict[str, Any] | None


class ChatCompletion(msgspec.Struct, kw_only=True):
    """A whole response to a chat request."""

    id: str | UnsetType = UNSET
    object: str
    created: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    choices: list[ChatChoice]
    usage: TokenUsage | None


class ChatChunk(msgspec.Struct, kw_only=True):
    """The data of one event of a chat stream.

    Attributes:
        choices: pieces of the answers, each in its `delta`.
        usage: in the last event, if `stream_options.include_usage` asks for it.
    """

    id: str | UnsetType = UNSET
    object: str | UnsetType = UNSET
    created: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    choices: list[dict[str, Any]]
    usage: TokenUsage | None | UnsetType = UNSET


class TextChoice(msgspec.Struct, kw_only=True):
    """One continuation of a prompt; those of several prompts are numbered through."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: dict[str, Any] | None


class TextCompletion(msgspec.Struct, kw_only=True):
    """A whole response to a request for completions; each event of a stream has the same form, with pieces of texts."""

    id: str | UnsetType = UNSET
    object: str
    created: int | UnsetType = UNSET
    model: str | UnsetType = UNSET
    choices: list[TextChoice]
    usage: TokenUsage | None


class Embedding(msgspec.Struct, kw_only=True):
    """One vector: numbers, or little-endian 32-bit floats in base64 if the request asks for them."""

    object: str
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, kw_only=True):
    """The vectors, in the order of the input."""

    object: str
    data: list[Embedding]
    model: str | UnsetType = UNSET
    usage: TokenUsage | None


class RankedDocument(msgspec.Struct, kw_only=True):
    """A document's place in the ranking; `index` is its place in the request."""

    index: int
    relevance_score: float
    document: dict[str, str] | UnsetType = UNSET


class Ranking(msgspec.Struct, kw_only=True):
    """The documents, the best first. Clients of Cohere read the tokens in `meta`, those of Jina in `usage`."""

    id: str | UnsetType = UNSET
    model: str
    results: list[RankedDocument]
    usage: TokenUsage | UnsetType = UNSET
    meta: dict[str, Any] | UnsetType = UNSET


class MessageUsage(msgspec.Struct, kw_only=True):
    """The tokens of a message; those read from a cache are not in `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | None | UnsetType = UNSET


class Message(msgspec.Struct, kw_only=True):
    """A whole response to a request of Anthropic's Messages.

    Attributes:
        content: blocks of the types text, thinking and tool_use.
        stop_reason: end_turn, max_tokens, stop_sequence, tool_use or refusal.
    """

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(msgspec.Struct, kw_only=True):
    """An estimate of the tokens of a request."""

    input_tokens: int


class Response(msgspec.Struct, kw_only=True):
    """A whole response to a request of OpenAI's Responses.

    Attributes:
        status: completed, incomplete or failed.
        output: items of the types message, reasoning, function_call and custom_tool_call.
    """

    id: str
    object: Literal["response"]
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    usage: dict[str, Any] | None
    store: bool
