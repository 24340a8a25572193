"""`POST /v1/chat/completions`: OpenAI's chat endpoint, which all providers serve natively."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from app.services.endpoints.chat_assembly import ChatCollector, normalise_completion
from app.services.endpoints.chat_chunks import CHAT_STEPS, note_chat_chunk, observe_chat_chunk
from app.services.endpoints.chat_events import make_chat_events
from app.services.endpoints.choices import ChoicesBody, get_output_bound, summarize_choices
from app.services.endpoints.chunk_stream import ChunkStreamProtocol
from app.services.endpoints.endpoint import Endpoint, make_parameter_error
from app.services.endpoints.prompts import CHARACTERS_PER_TOKEN
from app.services.endpoints.token_bounds import bound_chat_tokens

# Each message needs a few more tokens for its role and separators, by the estimate in OpenAI's cookbook.
_TOKENS_PER_MESSAGE = 4


class ChatBody(ChoicesBody, kw_only=True):
    """The documented fields of a chat request."""

    messages: Annotated[list[Any], Meta(min_length=1, extra={"must": "be a list with at least one message"})]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None

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


CHAT = Endpoint(
    name="chat",
    path="/v1/chat/completions",
    title="a chat completion",
    body=ChatBody,
    estimate_prompt_tokens=_estimate_prompt_tokens,
    get_output_bound=get_output_bound,
    bound_tokens=bound_chat_tokens,
    output_field="max_tokens",
    summarize=partial(summarize_choices, is_choice=_is_choice, estimate_output_tokens=_estimate_output_tokens),
    normalise=normalise_completion,
    stream=ChunkStreamProtocol(
        "a chat stream", observe_chat_chunk, note_chat_chunk, CHAT_STEPS, ChatCollector, make_chat_events
    ),
)
