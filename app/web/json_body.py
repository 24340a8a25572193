"""Request bodies of the gateway's own API, decoded into Structs. Only the fields of the Structs are allowed."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from app.errors import BadRequest

# Much more than a list of model patterns needs.
MAX_BYTES = 1_048_576

_MAX_SHOWN = 100
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(\w+)`(?: - at `\$\.?(.*)`)?")
_WRONG = re.compile(r"Expected `([^`]*)`(?: (>=|<=) (\S+))?(?:, got `([^`]*)`)?(?: - at `\$\.?(.*)`)?")
_PLACE = re.compile(r" - at `\$\.?(.*)`$")

_WORDS = {
    "int": "a whole number",
    "str": "a string",
    "bool": "true or false",
    "decimal": "a number",
    "array": "a list",
    "object": "an object",
    "datetime": "a time such as 2027-01-31T00:00:00Z",
}
_SIDES = {">=": "of at least", "<=": "of at most"}

Kind = TypeVar("Kind", bound=msgspec.Struct)


def decode_json(content: bytes, kind: type[Kind]) -> Kind:
    """Returns a body as an instance of `kind`; an empty body is an empty object.

    Args:
        content: JSON in UTF-8.
        kind: a Struct that forbids unknown fields.

    Raises:
        BadRequest: it is not a JSON object, it has a duplicate key or a string with NUL, or a field is unknown,
            missing, or not what `kind` requires; `param` names it.
    """
    try:
        decoded = msgspec.json.decode(content or b"{}", type=kind)
        # Parsed again, because msgspec keeps the last of several equal keys, and the database cannot store NUL.
        json.loads(content or b"{}", object_pairs_hook=_raise_if_unusable)
    except msgspec.ValidationError as error:
        raise _make_error(kind, str(error)) from None
    except RecursionError:
        raise BadRequest("The body is nested too deeply. Flatten it.", code="invalid_json") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error).removeprefix("JSON is malformed: ").rstrip(".")
        raise BadRequest(
            f"The body is not valid JSON: {reason}. Send one JSON object in UTF-8.", code="invalid_json"
        ) from None
    return decoded


def _raise_if_unusable(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen:
            raise BadRequest(
                f"The body contains the key {name!r} twice. Send it once.", param=name, code="duplicate_key"
            )
        seen.add(name)
        if any(isinstance(each, str) and "\0" in each for each in (value if isinstance(value, list) else [value])):
            raise _make_refusal(f"`{name}` contains the character NUL. Leave it out.", name)


def _make_error(kind: type[msgspec.Struct], text: str) -> BadRequest:
    if (found := _UNKNOWN.fullmatch(text)) is not None:
        name, place = found[1][:_MAX_SHOWN], found[2] or ""
        known = ", ".join(_find_fields(kind, place))
        where = f" of {place}" if place else ""
        return _make_refusal(f"There is no field {name!r}{where}. The fields are: {known}.", _join(place, name))
    if (found := _MISSING.fullmatch(text)) is not None:
        param = _join(found[2] or "", found[1])
        return _make_refusal(f"`{param}` is required.", param)
    if (found := _WRONG.fullmatch(text)) is not None:
        wanted = " or ".join(_WORDS.get(word, word) for word in found[1].split(" | "))
        side = f" {_SIDES[found[2]]} {found[3]}" if found[2] else ""
        got = f", not {_WORDS.get(found[4], found[4])}" if found[4] else ""
        return _make_refusal(f"{_name_place(found[5])} must be {wanted}{side}{got}.", found[5])
    place_found = _PLACE.search(text)
    at = None if place_found is None else place_found[1]
    if "RFC3339" in text:
        return _make_refusal(f"{_name_place(at)} must be {_WORDS['datetime']}; a day alone is not enough.", at)
    reason = _PLACE.sub("", text)
    return _make_refusal(f"{_name_place(at)} is not valid: {reason}.", at)


def _name_place(place: str | None) -> str:
    return f"`{place}`" if place else "The body"


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _make_refusal(message: str, param: str | None) -> BadRequest:
    return BadRequest(message, param=param, code="invalid_parameter")


def _find_fields(kind: type[msgspec.Struct], place: str) -> list[str]:
    """Returns the field names of the object at a path within `kind`, as in "budgets[0]"."""
    described: inspect.Type = inspect.type_info(kind)
    for name in re.findall(r"[A-Za-z]\w*", place):
        if isinstance(described, inspect.StructType):
            described = _find_struct(next(field.type for field in described.fields if field.encode_name == name))
    assert isinstance(described, inspect.StructType)
    return [field.encode_name for field in described.fields]


def _find_struct(described: inspect.Type) -> inspect.Type:
    """Returns the Struct of a type that is a Struct, a list of Structs, or a union with one."""
    if isinstance(described, inspect.VarTupleType | inspect.ListType):
        return _find_struct(described.item_type)
    if isinstance(described, inspect.UnionType):
        parts = [_find_struct(part) for part in described.types]
        return next((part for part in parts if isinstance(part, inspect.StructType)), described)
    return described
