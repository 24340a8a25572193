"""Ids of holders and groups."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.digits + string.ascii_letters
_LENGTH = 10


def make_id() -> str:
    """Returns a new random id, in the same form as key ids."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
