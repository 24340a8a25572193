"""Removes the fields of a request that a provider's schema does not allow, and keeps their names."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from app.services.providers import Schema

# The client gets the names in one header. Callers choose names in messages, so the number and length are bounded; SDKs
# add about ten.
_MAX_NAMES = 50
_MAX_NAME_CHARACTERS = 100

# A comma separates the names, and a header must not contain control characters or characters beyond ASCII.
_SAFE = string.punctuation.replace(",", "").replace("%", "")


class Omissions:
    """The names of the removed fields, each once, in the order of their first removal."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._has_more = False

    def add(self, name: str) -> None:
        """Adds a name, such as `store` or `messages[].name`."""
        if len(self._names) < _MAX_NAMES:
            self._names[name[:_MAX_NAME_CHARACTERS]] = None
        elif name[:_MAX_NAME_CHARACTERS] not in self._names:
            self._has_more = True

    def add_all(self, names: Iterable[str]) -> None:
        """Adds several names."""
        for name in names:
            self.add(name)

    def get_names(self) -> list[str]:
        """Returns the names in a form that a header can contain; a final `...` stands for the rest."""
        names = [quote(name, safe=_SAFE, errors="replace") for name in self._names]
        return [*names, "..."] if self._has_more else names


def without(value: dict[str, Any], names: frozenset[str], path: str, omitted: Omissions) -> dict[str, Any]:
    """Returns an object without the fields in `names`; the object itself if it has none of them."""
    if names.isdisjoint(value):
        return value
    for name in value:
        if name in names:
            omitted.add(path + name)
    return {name: inner for name, inner in value.items() if name not in names}


def fit_to_schema(value: Any, schema: Schema, path: str, omitted: Omissions) -> Any:
    """Returns an object, or a list of objects, without the fields that `schema` does not allow.

    A schema with `type` applies to objects whose type it knows. An object of another type, as in `{"type": "file",
    "file": …}`, is returned unchanged: the provider must refuse the request rather than serve it without the content of
    the object.

    Args:
        value: the value; anything that is neither an object nor a list is returned unchanged.
        schema: the allowed fields.
        path: the name of the value, as in "messages".
        omitted: gets the names of the removed fields.

    Returns:
        The value itself if no field of an object was removed, else a copy.
    """
    kind = type(value)
    if kind is list:
        path += "[]"
        return [fit_to_schema(each, schema, path, omitted) for each in value]
    if kind is not dict or ("type" in schema.names and not _is_known_type(value, schema)):
        return value
    if not value.keys() <= schema.names:
        value = _without_unknown(value, schema, path, omitted)
    for name, inner in schema.nested.items():
        child = value.get(name)
        if type(child) is list or type(child) is dict:
            fitted = fit_to_schema(child, inner, f"{path}.{name}", omitted)
            if fitted is not child and fitted != child:
                value = {**value, name: fitted}
    return value


def _without_unknown(value: dict[str, Any], schema: Schema, path: str, omitted: Omissions) -> dict[str, Any]:
    for name in value:
        if name not in schema.names:
            omitted.add(f"{path}.{name}")
    return {name: inner for name, inner in value.items() if name in schema.names}


def _is_known_type(value: dict[str, Any], schema: Schema) -> bool:
    kind = value.get("type")
    return isinstance(kind, str) and kind in schema.names


def without_nulls(message: dict[str, Any], path: str, omitted: Omissions) -> dict[str, Any]:
    """Returns a message without the fields that are null, except `content`, which OpenAI's schema requires."""
    names = frozenset(name for name, value in message.items() if value is None and name != "content")
    return without(message, names, path, omitted) if names else message
