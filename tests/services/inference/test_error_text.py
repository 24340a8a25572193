"""The recorded text of an error contains no secrets and no contents of the request."""

from __future__ import annotations

import pytest

from app.services.inference.error_text import make_error_text
from app.services.journal import MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("Extra inputs are not permitted, field: 'store', value: 'zanzibar'", "field: 'store', value: …"),
        ("2 request validation errors: Bad, field: 'a', value: zanzibar; Bad, field: 'b'", "value: …"),
        ("1 validation error\nmessages.0\n  Bad [type=str, input_value='zanzibar', input_type=str]", "Bad [type=str"),
        ("[{'loc': ('body', 'x'), 'msg': 'Field required', 'input': {'a': 'zanzibar'}}]", "'Field required'"),
        ('{"msg": "Bad", "input": "zanzibar"}', "Bad"),
        ("Invalid value: 'zanzibar'. Supported values are: 'a' and 'b'.", "Invalid value: …"),
        ("messages.0.content: expected a list, got 'zanzibar'", "expected a list, got …"),
        ('Expected a number, received: {"a": "zanzibar"}', "Expected a number, received:"),
        ("The text '" + "zanzibar " * 20 + "' is not allowed.", "The text '…' is not allowed."),
    ],
)
def test_what_a_provider_quotes_of_the_request_is_left_out(message: str, kept: str) -> None:
    text = make_error_text(message)
    assert kept in text and "zanzibar" not in text


@pytest.mark.parametrize(
    "message",
    [
        "The prompt is too long: 40177, model maximum context length: 32767",
        "Model 'accounts/fireworks/models/nothing' is not served by Fireworks. GET /api/catalog/models lists them all.",
        "temperature must be a number from 0 to 2.",
        "messages[0].content: Input should be a valid string",
        "input: Field required",
        "No answer was received in time. The given model is busy.",
    ],
)
def test_a_message_that_quotes_nothing_stays_as_it_is(message: str) -> None:
    assert make_error_text(message) == message


def test_a_secret_is_redacted_before_the_text_is_cut() -> None:
    for length in range(MAX_MESSAGE_CHARACTERS - 30, MAX_MESSAGE_CHARACTERS + 1):
        text = make_error_text("x" * length + " fw_" + "Canary" * 3)
        assert "Canary" not in text and len(text) <= MAX_MESSAGE_CHARACTERS
