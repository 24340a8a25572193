"""Reads the free text of a custom tool from the arguments of the function that stands for it."""

from __future__ import annotations

import json
import re

# The text begins within the first few pieces of the arguments, or not at all.
_MAX_BEGIN_PIECES = 100


class CustomInput:
    """Reads the free text of a custom tool from the arguments of its function, `{"input": "…"}`, piece by piece.

    If the arguments have another form, because a model ignored the schema, they are the text themselves.
    """

    _BEGIN = re.compile(r'\s*\{\s*"input"\s*:\s*"')
    _END = re.compile(r'"\s*\}\s*\Z')
    # A character of a JSON string that must not be split: an escape, a pair of surrogates, or text.
    _CHARACTERS = re.compile(
        r'(?:[^"\\]|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}'
        r'|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\["\\/bfnrt])*'
    )

    def __init__(self) -> None:
        self._arguments: list[str] = []
        self._pending: str | None = None  # The bytes after the last whole character; None before the text has begun.
        self._texts: list[str] = []

    def add(self, arguments: str) -> str:
        """Adds a piece of the arguments and returns the added text; "" while that is unknown."""
        self._arguments.append(arguments)
        if self._pending is None:
            if len(self._arguments) > _MAX_BEGIN_PIECES:
                return ""
            begin = self._BEGIN.match("".join(self._arguments))
            if begin is None:
                return ""
            self._pending = "".join(self._arguments)[begin.end() :]
        else:
            self._pending += arguments
        whole = self._CHARACTERS.match(self._pending)
        assert whole is not None
        self._pending = self._pending[whole.end() :]
        text: str = json.loads(f'"{whole[0]}"', strict=False)
        self._texts.append(text)
        return text

    def finish(self) -> str:
        """Returns the rest of the text, once all arguments have been added."""
        arguments, sent = "".join(self._arguments), self.get_text()
        try:
            value = json.loads(arguments, strict=False)
        except (ValueError, RecursionError):
            value = None
        text = value.get("input") if isinstance(value, dict) else None
        if not isinstance(text, str):
            text = arguments if self._pending is None else sent + self._read_rest()
        rest = text[len(sent) :] if text.startswith(sent) else ""
        self._texts.append(rest)
        return rest

    def _read_rest(self) -> str:
        """Returns the unchanged rest after the last whole character: an invalid escape, or one that was cut off."""
        assert self._pending is not None
        return "" if self._pending.startswith('"') else self._END.sub("", self._pending)

    def get_arguments(self) -> str:
        """Returns the arguments so far."""
        return "".join(self._arguments)

    def get_text(self) -> str:
        """Returns the text so far."""
        return "".join(self._texts)
