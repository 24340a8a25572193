"""Checks a request body against the documented fields of its endpoint.

Undocumented fields pass unchanged, and no field gets a default. A whole number that is written as 5.0 becomes 5. The
fields, their types and their ranges are declared once, in the endpoint's body type; the error messages are made from
that declaration.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, get_type_hints

import msgspec
from msgspec import inspect

from app.config import MAX_NAME_CHARACTERS
from app.errors import BadRequest
from app.services.endpoints import InferenceBody, make_parameter_error
from app.services.inference.choice_errors import make_choice_error

_MAX_KEY_CHARACTERS = 100

# The most names allowed in `models`, in addition to `model`.
MAX_MODELS = 8

# msgspec ends its messages with the path, as in "… - at `$.max_tokens`", or names a missing field.
_PLACE = re.compile(r"`\$\.([\w.]+)|required field `(\w+)`")


def validate_body(body: dict[str, Any], kind: type[InferenceBody]) -> InferenceBody:
    """Returns the documented fields of a body; null counts as absent.

    Documented whole numbers written as 5.0 are replaced in the body itself, because providers refuse them.

    Raises:
        BadRequest: a required field is missing, or a field has the wrong type or is out of range; `param` names it.
    """
    try:
        fields = _convert(body, kind)
    except UnicodeEncodeError:
        raise BadRequest(
            "A documented field, or the name of a field, contains a lone surrogate (half of a character, such as "
            "\\ud83d), which only the contents of messages may. Remove it.",
            code="invalid_parameter",
        ) from None
    if fields.models is not None:
        _read_models(fields, fields.models)
    if not fields.model:
        raise _make_name_error("model", is_missing=body.get("model") is None)
    _raise_if_bad_name("model", fields.model)
    if isinstance(fields.provider, str):
        _raise_if_bad_name("provider", fields.provider)
    return fields


def _read_models(fields: InferenceBody, names: tuple[str, ...]) -> None:
    """Checks the names in `models`, and uses the first as `model` if the request has none."""
    if not 1 <= len(names) <= MAX_MODELS:
        raise _make_models_error()
    for name in names:
        if not _is_name(name):
            raise _make_models_error()
    fields.model = fields.model or names[0]


def _make_models_error() -> BadRequest:
    return make_parameter_error(
        "models",
        f"be a list of 1 to {MAX_MODELS} names of models, each of 1 to {MAX_NAME_CHARACTERS} printable characters",
    )


def _convert(body: dict[str, Any], kind: type[InferenceBody]) -> InferenceBody:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        return _convert_leniently(body, kind, error)


def _raise_if_bad_name(param: str, name: str) -> None:
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise _make_name_error(param)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_CHARACTERS and name.isprintable()


def _make_name_error(param: str, *, is_missing: bool = False) -> BadRequest:
    must = f"be a string of 1 to {MAX_NAME_CHARACTERS} printable characters"
    return make_parameter_error(param, must + (", or an object" if param == "provider" else ""), is_missing=is_missing)


def _convert_leniently(body: dict[str, Any], kind: type[InferenceBody], error: Exception) -> InferenceBody:
    """Converts a body that may have whole numbers written as 5.0; JSON has only one number type.

    Raises:
        BadRequest: the body is invalid in another way.
    """
    changed = {
        name: int(value)
        for name, value in body.items()
        if isinstance(value, float) and value.is_integer() and isinstance(_get_types(kind).get(name), inspect.IntType)
    }
    present = {name: value for name, value in body.items() if value is not None}
    try:
        fields = msgspec.convert(present | changed, kind)
    except msgspec.ValidationError as second:
        raise _make_refusal(kind, present, second) from error
    body.update(changed)
    return fields


def _make_refusal(kind: type[InferenceBody], body: dict[str, Any], error: Exception) -> BadRequest:
    found = _PLACE.search(str(error))
    if found is None:
        return BadRequest(f"The body is not valid: {error}.", code="invalid_parameter")
    name = found[1] or found[2]
    if name == "provider" or name.startswith("provider."):
        return make_choice_error(name, str(error))
    if name == "model":
        return _make_name_error(name)
    if name == "models":
        return _make_models_error()
    described = _get_type(kind, name)
    if found[2]:
        return make_parameter_error(name, _word_requirement(described), is_missing=True)
    value = body.get(name)
    if isinstance(described, inspect.DictType) and isinstance(value, dict):
        # msgspec does not say which key has the wrong value. All values of these fields must be strings.
        key = next((key for key in value if not isinstance(value[key], str)), "")
        return make_parameter_error(f"{name}.{key[:_MAX_KEY_CHARACTERS]}", _word_requirement(described.value_type))
    return make_parameter_error(name, _word_requirement(described))


def _get_type(kind: type, path: str) -> inspect.Type:
    """Returns the type of a field, or of a field within it, as in "stream_options.include_usage"."""
    name, _, rest = path.partition(".")
    found = _get_types(kind)[name]
    return _get_type(found.cls, rest) if rest and isinstance(found, inspect.StructType) else found


@cache
def _get_types(kind: type) -> dict[str, inspect.Type]:
    """Returns the type of each field of a Struct, without the null that most of them allow."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return {field.encode_name: _without_null(field.type) for field in described.fields}


def _without_null(described: inspect.Type) -> inspect.Type:
    if isinstance(described, inspect.UnionType):
        return next(each for each in described.types if not isinstance(each, inspect.NoneType))
    return described


def _word_requirement(described: inspect.Type) -> str:
    """Returns the requirement for a field, as in "be a number from 0 to 2"."""
    if isinstance(described, inspect.Metadata):
        must = (described.extra or {}).get("must")
        return str(must) if must else _word_requirement(described.type)
    if isinstance(described, inspect.IntType):
        if described.ge is None:
            return "be a whole number"
        end = f"of at least {described.ge}" if described.le is None else f"from {described.ge} to {described.le}"
        return f"be a whole number {end}"
    if isinstance(described, inspect.FloatType):
        return f"be a number from {described.ge:g} to {described.le:g}"
    words = {inspect.BoolType: "be true or false", inspect.StrType: "be a string", inspect.ListType: "be a list"}
    return words.get(type(described), "be an object")


def raise_if_field_is_invalid(kind: type[InferenceBody], name: str, value: Any) -> None:
    """Raises if `validate_body` would refuse one field of a body.

    Args:
        kind: the body's type.
        name: a field that it documents.
        value: the value of the field.

    Raises:
        BadRequest: the field has the wrong type or is out of range.
    """
    if isinstance(value, float) and value.is_integer() and isinstance(_get_types(kind)[name], inspect.IntType):
        value = int(value)
    try:
        msgspec.convert({name: value}, _make_type_of_field(kind, name))
    except msgspec.ValidationError as error:
        raise _make_refusal(kind, {name: value}, error) from None


@cache
def _make_type_of_field(kind: type[InferenceBody], name: str) -> type[msgspec.Struct]:
    return msgspec.defstruct(kind.__name__, [(name, get_type_hints(kind, include_extras=True)[name])])
