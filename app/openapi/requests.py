"""Bodies of inference requests: the fields that the gateway checks, and those passed on that clients use most.

Each is a subclass of the body that the gateway validates, so types and ranges are declared once. Further fields of the
provider pass.
"""

# The base classes are found by their paths, which a type checker cannot follow.
# mypy: disable-error-code="valid-type, misc, call-arg"
from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app.services.endpoints import ENDPOINTS, CountTokensBody, InferenceBody

_BODIES: dict[str, type[InferenceBody]] = {endpoint.path: endpoint.body for endpoint in ENDPOINTS}


class ChatMessage(msgspec.Struct, kw_only=True):
    """One message of a conversation.

    Attributes:
        content: a string, or parts such as `{"type": "image_url", …}`; null beside tool calls.
        tool_calls: the calls of an earlier answer.
        tool_call_id: the call that a message of the role `tool` answers.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None | UnsetType = UNSET
    tool_calls: list[dict[str, Any]] | None | UnsetType = UNSET
    tool_call_id: str | None | UnsetType = UNSET


Messages = Annotated[list[ChatMessage], Meta(min_length=1)]


class ChatRequest(_BODIES["/v1/chat/completions"], kw_only=True):
    """A request for a chat completion; the provider's other parameters pass too.

    Attributes:
        messages: the conversation.
        max_tokens: the most output tokens.
        stop: strings at which the output ends.
        tools: functions that the model may call.
        response_format: `{"type": "json_object"}`, or a JSON Schema for the answer.
    """

    messages: Messages
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None


class CompletionRequest(_BODIES["/v1/completions"], kw_only=True):
    """A request to continue a text; the provider's other parameters pass too.

    Attributes:
        prompt: a string, several strings, or ids of tokens.
    """

    prompt: str | list[Any]
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: int | None = None


class EmbeddingRequest(_BODIES["/v1/embeddings"], kw_only=True):
    """A request for the vectors of texts.

    Attributes:
        input: a string, several strings, or objects for the model's template; ids of tokens with `token_ids`.
    """

    input: str | list[Any] | dict[str, Any]


class TextDocument(msgspec.Struct, kw_only=True):
    """A document; other fields are not compared with the query."""

    text: str


class RerankRequest(_BODIES["/v1/rerank"], kw_only=True):
    """A request to sort documents by how well they answer a query.

    Attributes:
        top_n: how many of the best to return; by default all.
        return_documents: whether the answer repeats the documents.
        rank_fields, max_chunks_per_doc, max_tokens_per_doc: no provider here knows it; leave it out.
    """

    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | TextDocument], Meta(min_length=1)]
    rank_fields: None = None
    max_chunks_per_doc: None = None
    max_tokens_per_doc: None = None


class AnthropicMessage(msgspec.Struct, kw_only=True):
    """One message of a conversation: a string, or blocks such as `{"type": "tool_result", …}`."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]


AnthropicMessages = Annotated[list[AnthropicMessage], Meta(min_length=1)]


class MessageRequest(_BODIES["/v1/messages"], kw_only=True):
    """A request of Anthropic's Messages. Fields that chat lacks are left out and listed in a header.

    Attributes:
        system: instructions: a string, or blocks of text.
        max_tokens: the most output tokens; reduced to what the model can write.
        thinking: `{"type": "enabled", "budget_tokens": …}` becomes an effort.
    """

    messages: AnthropicMessages
    system: str | list[dict[str, Any]] | None = None


class CountTokensRequest(CountTokensBody, kw_only=True):
    """A request of Anthropic's to count tokens; one for a message will do."""

    messages: AnthropicMessages
    system: str | list[dict[str, Any]] | None = None


class ResponseRequest(_BODIES["/v1/responses"], kw_only=True):
    """A request of OpenAI's Responses.

    Attributes:
        input: a string, or the whole conversation as items.
        instructions: what a system message would say.
        store: accepted and answered with false: nothing is stored.
        background: must be absent or false.
    """

    input: Annotated[str, Meta(min_length=1)] | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    tool_choice: str | dict[str, Any] | None = None
