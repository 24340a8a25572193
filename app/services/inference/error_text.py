"""Error texts for the record: without secrets and without contents of the request."""

from __future__ import annotations

import re

from app.logs import redact
from app.services.journal import MAX_MESSAGE_CHARACTERS

# Each of these marks precedes a value of the request, as in "field: 'x', value: …" (Fireworks), "input_value=…" and
# "'input': …" (pydantic, which other providers pass on) and "got '…'". A value may contain anything, so its end cannot
# be found, and everything after the mark is left out.
_QUOTED_INPUT = re.compile(
    r"(\b(?:input_)?value['\"]?\s?[:=]|\binput=|['\"]input['\"]\s?[:=]|\b(?:got|received)(?::|(?=\s?['\"`\[{(]))).+",
    re.IGNORECASE | re.DOTALL,
)

# A quoted name is useful and shorter than this; a longer quote is likely to be message content.
_LONG_QUOTE = re.compile(r"(['\"`])[^'\"`]{100,}\1")

# Errors have at most 2,000 characters from a provider; this bound keeps the searches short for any input.
_MAX_SEARCHED_CHARACTERS = 3_000


def make_error_text(message: str) -> str:
    """Returns the message without secrets and quoted input, at most MAX_MESSAGE_CHARACTERS long."""
    text = redact(message)[:_MAX_SEARCHED_CHARACTERS]
    text = _QUOTED_INPUT.sub(r"\1 …", text)
    text = _LONG_QUOTE.sub(r"\1…\1", text)
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[: MAX_MESSAGE_CHARACTERS - 1] + "…"
