"""Provider texts that are safe for the caller: without secrets, and without names that concern only the operator."""

from __future__ import annotations

import re
from typing import Any

from app.config import provider_names
from app.lenient_json import encode
from app.logs import redact

# Long enough for a list of thirteen field errors, which Fireworks sends; short enough for a log line.
_MAX_MESSAGE_CHARACTERS = 2_000

# The longest quote of an object in an unknown form.
_MAX_QUOTED_CHARACTERS = 300

# Patterns for names of the operator's account at the provider and of machines in its network. Names of the provider's
# own models begin with `accounts/` and the provider's name. A host label has at most 63 characters, and the bounds keep
# the search linear.
_ACCOUNT = re.compile(rf"\baccounts/(?!(?:{'|'.join(provider_names())})\b(?!-))[\w.-]+")
_HOST = re.compile(
    r"(?<![\w.-])(?:(?:[a-z0-9-]{1,63}\.){1,8}(?:internal|local)\b(?::\d{2,5})?"
    r"|(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,20}|localhost):\d{2,5}\b)",
    re.IGNORECASE,
)


def clean(text: str | None) -> str | None:
    """Returns a provider's text, redacted and cut to _MAX_MESSAGE_CHARACTERS; None if it is empty or None.

    Besides secrets, names that are useless to the caller are redacted: accounts other than the provider's own
    (`accounts/<name>`), and hosts of the provider's network (`<name>.internal`, `<name>.local`, `<host>:<port>`).
    """
    if text and len(text) > 2 * _MAX_MESSAGE_CHARACTERS:
        # Redacting the invisible rest would cost time. A truncated key is not recognised, so the end is dropped.
        text = redact(text[: 2 * _MAX_MESSAGE_CHARACTERS])[:-_MAX_MESSAGE_CHARACTERS]
    if not text:
        return None
    text = _ACCOUNT.sub("accounts/[redacted]", redact(text))
    return _HOST.sub("[redacted]", text)[:_MAX_MESSAGE_CHARACTERS]


def quote_object(document: Any) -> str:
    """Returns the beginning of a small object, cleaned; empty for one with `choices` and for any other value."""
    if not isinstance(document, dict) or not document or "choices" in document:
        return ""
    try:
        text = encode(document).decode()
    except ValueError:
        return ""
    return (clean(text) or "")[:_MAX_QUOTED_CHARACTERS] if len(text) <= _MAX_MESSAGE_CHARACTERS else ""
