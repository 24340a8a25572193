"""Query strings read into Structs: the fields of a Struct are the parameters, with their types, ranges and defaults.

    class StatsQuery(msgspec.Struct, kw_only=True):
        time_range: Annotated[str, one_of(TIME_RANGES)] = "24h"

    query = read_query(StatsQuery)

A field may be a str, a bool, an int or a float with both ends of its range, a date or a datetime, each of them or None,
or a tuple of any number of these, which are separated by commas in the query. Names that Python reserves are given with
`msgspec.field(name="from")`. msgspec's own converter is not used, because its messages do not show the value, and
because times are read more leniently here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, time
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from flask import request
from msgspec import inspect

from app.config import MAX_NAME_CHARACTERS
from app.errors import BadRequest

# There are no records from other years, and date arithmetic fails near the years 1 and 9999.
_YEARS = range(2000, 2200)

# The code of all errors here, except those with a code from their field.
_CODE = "invalid_parameter"

_BOOLS = ["true", "false"]
_DECIMAL = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?", re.ASCII)

_CHOICE_MESSAGE = "`{name}` is {value!r}; it must be one of: {choices}."

Kind = TypeVar("Kind", bound=msgspec.Struct)


class _Parameter(NamedTuple):
    """One parameter: its name in the query, the Struct's field, and the function that converts and checks a text."""

    name: str
    field: str
    convert: Callable[[str, str], Any]
    is_number: bool


def one_of(
    choices: Collection[str], *, message: str = _CHOICE_MESSAGE, code: str = _CODE, any_case: bool = False
) -> msgspec.Meta:
    """Returns the annotation of a text that must be one of `choices`.

    Args:
        choices: the allowed values, in the order in which messages list them.
        message: the error message for any other value; may contain {name}, {value} and {choices}.
        code: the error's code.
        any_case: whether upper case is accepted too; all `choices` are in lower case then.
    """
    return msgspec.Meta(
        extra_json_schema={"enum": list(choices)}, extra={"message": message, "code": code, "any_case": any_case}
    )


def matching(pattern: str, demand: str) -> msgspec.Meta:
    """Returns the annotation of a text that must match a pattern.

    Args:
        pattern: a regular expression for the whole text, with `^` and `$` for readers of the schema.
        demand: the requirement, such as "must be a status".
    """
    return msgspec.Meta(pattern=pattern, extra={"demand": demand})


def read_query(kind: type[Kind], *, refuse_empty_numbers: bool = False, ignore_unknown: bool = False) -> Kind:
    """Returns the query string of the current request as an instance of `kind`.

    Unknown parameters, repeated ones, and texts that no record can contain are errors: if a misspelt filter were
    ignored, the response would be wrong. An empty value counts as missing.

    Args:
        kind: a Struct whose fields are the parameters.
        refuse_empty_numbers: whether an empty number is an error as well.
        ignore_unknown: whether other parameters are ignored, for a path of another API.

    Raises:
        BadRequest: a parameter is not what `kind` requires; `param` names it.
    """
    parameters = _get_parameters(kind)
    _raise_if_unknown_or_repeated([parameter.name for parameter in parameters], ignore_unknown=ignore_unknown)
    values = {}
    for parameter in parameters:
        text = request.args.get(parameter.name)
        if text or (text is not None and parameter.is_number and refuse_empty_numbers):
            values[parameter.field] = parameter.convert(parameter.name, text)
    return kind(**values)


def _raise_if_unknown_or_repeated(known: list[str], *, ignore_unknown: bool) -> None:
    for name, values in request.args.lists():
        if name not in known:
            if ignore_unknown:
                continue
            hint = f"Use: {', '.join(known)}." if known else "This path takes none."
            raise BadRequest(f"Unknown parameter {name[:100]!r}. {hint}", param=name[:100], code="unknown_parameter")
        if len(values) > 1:
            raise _make_refusal(name, f"is given {len(values)} times. Give it once.")
        if len(values[0]) > MAX_NAME_CHARACTERS or "\0" in values[0]:
            raise _make_refusal(name, f"must have at most {MAX_NAME_CHARACTERS} characters, none of them NUL.")


def _make_refusal(name: str, reason: str) -> BadRequest:
    return BadRequest(f"`{name}` {reason}", param=name, code=_CODE)


@cache
def _get_parameters(kind: type[msgspec.Struct]) -> tuple[_Parameter, ...]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return tuple(_make_parameter(field) for field in info.fields)


def _make_parameter(field: inspect.Field) -> _Parameter:
    kind = field.type
    if isinstance(kind, inspect.UnionType):
        (kind,) = [part for part in kind.types if not isinstance(part, inspect.NoneType)]
    is_number = isinstance(kind, inspect.IntType | inspect.FloatType)
    return _Parameter(field.encode_name, field.name, _make_converter(kind), is_number)


def _make_converter(kind: inspect.Type) -> Callable[[str, str], Any]:
    if isinstance(kind, inspect.Metadata):
        return _make_annotated(kind)
    if isinstance(kind, inspect.VarTupleType):
        return partial(_convert_several, convert=_make_converter(kind.item_type))
    if isinstance(kind, inspect.IntType | inspect.FloatType) and kind.ge is not None and kind.le is not None:
        convert: Callable[..., Any] = _convert_integer if isinstance(kind, inspect.IntType) else _convert_decimal
        return partial(convert, minimum=kind.ge, maximum=kind.le)
    if isinstance(kind, inspect.StrType):
        return partial(_convert_text, max_length=kind.max_length)
    if type(kind) not in _PLAIN:
        raise TypeError(f"a query parameter cannot be {kind}")
    return _PLAIN[type(kind)]


def _make_annotated(kind: inspect.Metadata) -> Callable[[str, str], Any]:
    schema, extra = kind.extra_json_schema or {}, kind.extra or {}
    if "enum" in schema:
        return partial(_convert_choice, choices=schema["enum"], **extra)
    assert isinstance(kind.type, inspect.StrType) and kind.type.pattern is not None
    return partial(_convert_matching, pattern=re.compile(kind.type.pattern), **extra)


def _convert_choice(name: str, text: str, *, choices: list[str], message: str, code: str, any_case: bool) -> str:
    if any_case:
        text = text.lower()
    if text not in choices:
        shown = message.format(name=name, value=text[:MAX_NAME_CHARACTERS], choices=", ".join(choices))
        raise BadRequest(shown, param=name, code=code)
    return text


def _convert_integer(name: str, text: str, *, minimum: int, maximum: int) -> int:
    # int() also accepts "１", "1_0" and " 1", and fails on thousands of digits.
    is_digits = text.isascii() and text.isdigit() and len(text) <= MAX_NAME_CHARACTERS
    if not is_digits or not minimum <= int(text) <= maximum:
        shown = text[:MAX_NAME_CHARACTERS]
        raise _make_refusal(name, f"is {shown!r}; it must be a whole number from {minimum} to {maximum}.")
    return int(text)


def _convert_decimal(name: str, text: str, *, minimum: float, maximum: float) -> float:
    # float() also accepts "nan", "1_0" and " 1".
    if not _DECIMAL.fullmatch(text) or not minimum <= float(text) <= maximum:
        shown = text[:MAX_NAME_CHARACTERS]
        raise _make_refusal(name, f"is {shown!r}; it must be a number from {minimum:g} to {maximum:g}.")
    return float(text)


def _convert_bool(name: str, text: str) -> bool:
    return _convert_choice(name, text, choices=_BOOLS, message=_CHOICE_MESSAGE, code=_CODE, any_case=True) == "true"


def _convert_several(name: str, text: str, *, convert: Callable[[str, str], Any]) -> tuple[Any, ...]:
    return tuple(convert(name, part) for part in text.split(","))


def _convert_text(name: str, text: str, *, max_length: int | None) -> str:
    if max_length is not None and len(text.strip()) > max_length:
        raise _make_refusal(name, f"may have at most {max_length} characters.")
    return text


def _convert_matching(name: str, text: str, *, pattern: re.Pattern[str], demand: str) -> str:
    if not pattern.fullmatch(text):
        raise _make_refusal(name, f"is {text[:MAX_NAME_CHARACTERS]!r}; it {demand}.")
    return text


def _convert_time(name: str, text: str) -> datetime:
    """Returns an ISO 8601 time in UTC; a time without an offset is UTC already."""
    # An unescaped plus sign in a URL arrives as a space. Only the space between date and time can be a real one.
    unspaced = text[:11] + text[11:].replace(" ", "+")
    try:
        moment = datetime.fromisoformat(unspaced)
        if moment.year in _YEARS:
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except ValueError:
        pass
    shown = text[:MAX_NAME_CHARACTERS]
    raise _make_refusal(
        name, f"is {shown!r}; it must be a time in ISO 8601, such as 2026-03-14 or 2026-03-14T15:09:26Z."
    )


def _convert_day(name: str, text: str) -> date:
    """Returns a whole UTC day, written as a date or as the time of its start."""
    moment = _convert_time(name, text)
    if moment.time() != time():
        raise _make_refusal(name, "must be a whole day (UTC), such as 2026-03-14.")
    return moment.date()


_PLAIN: dict[type[inspect.Type], Callable[[str, str], Any]] = {
    inspect.BoolType: _convert_bool,
    inspect.DateTimeType: _convert_time,
    inspect.DateType: _convert_day,
}
