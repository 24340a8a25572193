"""Counts the tokens of a request in Anthropic's form: an estimate, because chat providers do not count in advance."""

from __future__ import annotations

from app.services.endpoints import CountTokensBody, estimate_message_tokens
from app.services.inference.json_body import parse_body
from app.services.inference.validation import validate_body


def count_message_tokens(content: bytes) -> int:
    """Returns an estimate of the prompt tokens of a request body; nothing is sent or recorded.

    Raises:
        BadRequest: the body is not one that `POST /v1/messages` would accept, apart from `max_tokens`.
    """
    body = parse_body(content)
    fields = validate_body(body, CountTokensBody)
    assert isinstance(fields, CountTokensBody)
    return estimate_message_tokens(body, fields)
