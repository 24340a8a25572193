"""`POST /v1/responses`: OpenAI's Responses API, which the gateway serves over chat without storing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from app.services.endpoints.chat import CHAT
from app.services.endpoints.responses_context import ResponseContext
from app.services.endpoints.responses_output import translate_response
from app.services.endpoints.responses_request import ResponsesBody, translate_request
from app.services.endpoints.responses_stream import ResponsesWriter
from app.services.endpoints.translation import Translated


class ResponsesTranslation:
    """Translates the Responses API to chat; see `Translation`."""

    def translate_request(
        self, body: dict[str, Any], fields: ResponsesBody, get_header: Callable[[str], str | None]
    ) -> Translated:
        """Returns the chat request."""
        return translate_request(body, fields)

    def translate_response(self, response: dict[str, Any], context: ResponseContext, request_id: str) -> dict[str, Any]:
        """Returns the response for a chat completion."""
        return translate_response(response, context, request_id)

    def make_writer(self, context: ResponseContext, request_id: str) -> ResponsesWriter:
        """Returns the writer of one stream."""
        return ResponsesWriter(context, request_id)


RESPONSES = replace(
    CHAT,
    path="/v1/responses",
    body=ResponsesBody,
    translation=ResponsesTranslation(),
    output_field="max_output_tokens",
)
