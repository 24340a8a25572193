"""The fields of limits in forms: from a view to the texts of a form, and from there to values for the services.

A form sends every field, so an emptied one removes the limit. Its values go through the decoder of the API's bodies, so
both refuse the same values in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from app.services.administration import LimitsView, describe_budget
from app.web import decode_json

Kind = TypeVar("Kind", bound=msgspec.Struct)

_NUMBERS = ("requests_per_minute", "tokens_per_minute", "concurrent", "max_output_tokens")
_LISTS = ("models", "budgets")
LIMIT_FIELDS = (*_NUMBERS, *_LISTS)


def write_limits(view: LimitsView | None) -> dict[str, str]:
    """Returns the texts of the fields; all are empty if there is no view."""
    if view is None:
        return dict.fromkeys(LIMIT_FIELDS, "")
    texts = {name: "" if getattr(view, name) is None else str(getattr(view, name)) for name in _NUMBERS}
    texts["models"] = "\n".join(view.models)
    texts["budgets"] = "\n".join(describe_budget(each.amount, each.unit, each.window) for each in view.budgets)
    return texts


def read_limits(form: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of the fields that the form has."""
    values: dict[str, Any] = {name: read_number(form[name]) for name in _NUMBERS if name in form}
    for name in _LISTS:
        if name in form:
            values[name] = [line.strip() for line in form[name].splitlines() if line.strip()]
    return values


def read_number(text: str) -> int | str | None:
    """Returns a whole number, None for an empty text, or any other text unchanged, which the decoder then refuses."""
    plain = text.strip().replace(",", "").replace(" ", "")
    if not plain:
        return None
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) < 20 else text


def read_day(text: str) -> str | None:
    """Returns the beginning of a UTC day in the decoder's form; None for an empty text."""
    return f"{text.strip()}T00:00:00Z" if text.strip() else None


def decode(values: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """Returns the values as a body of the API.

    Raises:
        BadRequest: one makes no sense; `param` names it.
    """
    return decode_json(msgspec.json.encode(values), kind)
