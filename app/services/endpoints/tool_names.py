"""Tool names and ids that every API and every provider accepts, and from which the originals can be restored.

Chat providers allow names of 64 characters, Anthropic's clients names of 128. Anthropic's ids consist of letters,
digits, `_` and `-`; providers also send `functions.get_time:0`, repeat an id in later turns, or send none. The gateway
keeps no state between requests, so a changed id contains the original one: some models' templates read it.
"""

from __future__ import annotations

import hashlib
import re

MAX_NAME_CHARACTERS = 64
_HASH_CHARACTERS = 8

_MARK = "toolu_gw_"
_MARKED = re.compile(_MARK + r"[0-9a-f]{8}(?:n\d+)?_((?:[A-Za-z0-9_]|-[0-9a-f]{2})*)")
_SAFE = re.compile(r"[A-Za-z0-9_-]+")
_UNSAFE_CHARACTER = re.compile(r"[^A-Za-z0-9_]")

# Shorter ids, such as `call_0`, are counters that start again with each response.
_MIN_UNIQUE_CHARACTERS = 12
_MAX_ID_CHARACTERS = 64
# A longer original id is replaced by its hash.
_MAX_KEPT_CHARACTERS = 48


def shorten_name(name: str) -> str:
    """Returns a tool's name or, if it is too long, its beginning and a hash; equal names stay equal."""
    return name if len(name) <= MAX_NAME_CHARACTERS else add_hash(name, name)


def add_hash(name: str, text: str) -> str:
    """Returns a name, shortened if necessary, with a hash of `text` that distinguishes it from similar names."""
    return name[: MAX_NAME_CHARACTERS - _HASH_CHARACTERS - 1] + "_" + _hash(text)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=_HASH_CHARACTERS // 2).hexdigest()


class ToolIds:
    """Makes the ids of one response's tool calls: safe, and different from those of all other responses.

    Args:
        request_id: the gateway's id of the request.
    """

    def __init__(self, request_id: str) -> None:
        self._hash = _hash(request_id)
        self._used: set[str] = set()

    def make_id(self, original: object) -> str:
        """Returns the client's id for a call with this id; a safe one that is unlikely to be repeated is kept."""
        text = original if isinstance(original, str) else ""
        is_good = _MIN_UNIQUE_CHARACTERS <= len(text) <= _MAX_ID_CHARACTERS and _SAFE.fullmatch(text)
        made = text if is_good and not text.startswith(_MARK) else self._wrap(text, "")
        if made in self._used:
            made = self._wrap(text, f"n{len(self._used)}")
        self._used.add(made)
        return made

    def _wrap(self, text: str, number: str) -> str:
        kept = text if len(text) <= _MAX_KEPT_CHARACTERS else _hash(text)
        escaped = _UNSAFE_CHARACTER.sub(_escape, kept.encode("ascii", "replace").decode())
        return f"{_MARK}{self._hash}{number}_{escaped}"


def _escape(match: re.Match[str]) -> str:
    return f"-{ord(match[0]):02x}"


def restore_id(made: str) -> str:
    """Returns the original id for one made by `ToolIds`; any other id, or one without an original, unchanged."""
    match = _MARKED.fullmatch(made)
    if match is None or not match[1]:
        return made
    return re.sub("-([0-9a-f]{2})", lambda escaped: chr(int(escaped[1], 16)), match[1])
