"""Errors for a `provider` field that is an object but not a valid one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import structs

from app.config import MAX_NAME_CHARACTERS
from app.errors import BadRequest
from app.services.endpoints import MAX_PROVIDER_NAMES, MaxPrice, ProviderChoice, make_parameter_error

_UNKNOWN = re.compile(r"unknown field `(.*?)` - at", re.DOTALL)

_MAX_SHOWN_CHARACTERS = 100

_NAMES = f"be a list of at most {MAX_PROVIDER_NAMES} names of providers"
_FLAG = "be true or false"
_USD = "be a number of at least 0, in USD per million tokens"
_MUST: Mapping[str, str] = {
    "provider": f"be a string of 1 to {MAX_NAME_CHARACTERS} printable characters, or an object",
    "provider.order": _NAMES,
    "provider.only": _NAMES,
    "provider.ignore": _NAMES,
    "provider.allow_fallbacks": _FLAG,
    "provider.sort": 'be "price", "latency" or "throughput"',
    "provider.max_price": "be an object with `prompt` and `completion`, in USD per million tokens",
    "provider.max_price.prompt": _USD,
    "provider.max_price.completion": _USD,
    "provider.require_parameters": _FLAG,
}


def make_choice_error(place: str, message: str) -> BadRequest:
    """Returns the error for a wrong `provider`.

    Args:
        place: the field at fault, as in "provider.sort".
        message: msgspec's description of the mistake.
    """
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        return make_parameter_error(place, _MUST.get(place, _MUST["provider"]))
    known = [field.encode_name for field in structs.fields(ProviderChoice if place == "provider" else MaxPrice)]
    name = unknown[1][:_MAX_SHOWN_CHARACTERS]
    return BadRequest(
        f"`{place}` has no field {name!r}. Its fields are: {', '.join(known)}.",
        param=f"{place}.{name}",
        code="unknown_parameter",
    )
