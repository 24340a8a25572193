"""`POST /v1/messages`: Anthropic's API, translated to chat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from app.services.endpoints.chat import CHAT
from app.services.endpoints.messages_body import CountTokensBody, MessagesBody, MessagesContext
from app.services.endpoints.messages_errors import ANTHROPIC_ERRORS
from app.services.endpoints.messages_request import translate_request
from app.services.endpoints.messages_response import make_message
from app.services.endpoints.messages_stream import MessagesWriter
from app.services.endpoints.token_estimate import estimate_tokens
from app.services.endpoints.translation import Translated


class MessagesTranslation:
    """Translates between Anthropic's Messages and chat; see `Translation`."""

    def translate_request(
        self, body: dict[str, Any], fields: MessagesBody, get_header: Callable[[str], str | None]
    ) -> Translated:
        """Returns the chat request; raises BadRequest."""
        return translate_request(body, fields)

    def translate_response(self, response: dict[str, Any], context: MessagesContext, request_id: str) -> dict[str, Any]:
        """Returns the message of a chat completion; raises UpstreamError."""
        return make_message(response, context, request_id)

    def make_writer(self, context: MessagesContext, request_id: str) -> MessagesWriter:
        """Returns the writer of one stream."""
        return MessagesWriter(context, request_id)


MESSAGES = dataclasses.replace(
    CHAT,
    path="/v1/messages",
    body=MessagesBody,
    estimate_prompt_tokens=estimate_tokens,
    errors=ANTHROPIC_ERRORS,
    translation=MessagesTranslation(),
    clamps_output=True,
)


def estimate_message_tokens(body: dict[str, Any], fields: CountTokensBody) -> int:
    """Returns an estimate of the prompt tokens of a request in Anthropic's form; raises BadRequest."""
    return estimate_tokens(translate_request(body, fields).body)
