"""The terms of an alias, and which of them are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from typing import Any, get_args

import msgspec
from msgspec import UNSET, UnsetType

from app.config import MAX_NAME_CHARACTERS
from app.errors import BadRequest
from app.services.aliases import AliasTarget, Sort, split_target
from app.services.endpoints import ENDPOINTS, OUTPUT_FIELDS, SORT_SUFFIXES
from app.services.inference import raise_if_field_is_invalid
from app.services.models import ALIAS_PREFIX
from app.services.providers import PROVIDERS

MAX_ALIAS_TARGETS = 8
_MAX_WEIGHT = 1_000_000
# Every worker keeps all overrides in memory and writes them over the body of each request.
_MAX_OVERRIDE_BYTES = 16_384
_MAX_DEPTH = 32

# Each part begins with a letter or a digit, so no part can be `..`, which clients remove from a path.
_PART = r"[a-z0-9][a-z0-9._:+-]*"
_NAME = re.compile(rf"{_PART}(/{_PART})*")
# More than any model writes. Limits reserve the output that an override allows, so a larger one would use up budgets.
_MOST_OUTPUT_TOKENS = 10_000_000

# Fields for the question, its receiver and the form of the answer. An override of these would answer another question.
_NOT_OVERRIDDEN = {
    *("model", "models", "provider"),
    *("messages", "prompt", "input", "query", "documents"),
    *("stream", "stream_options"),
}


class TargetTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that an alias is to stand for; see app.services.aliases.AliasTarget."""

    name: str
    weight: float | None = None


class AliasChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of an alias; fields that are absent stay.

    Attributes:
        targets: all models that it is to stand for, in order, as objects, or as names without a weight. If one has a
            weight, those without have 1.
        sort: by what to order them for a request; None keeps their order, or follows their weights.
        overrides: field of a request's body → the value that it gets; all that there are to be.
    """

    targets: tuple[TargetTerms | str, ...] | UnsetType = UNSET
    sort: str | None | UnsetType = UNSET
    overrides: dict[str, Any] | UnsetType = UNSET


class NewAlias(AliasChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An alias to be made."""

    name: str


def validate_alias_name(name: str) -> str:
    """Returns the name of an alias in lower case.

    Raises:
        BadRequest: it could be mistaken for another name, or cannot be written in a path.
    """
    lower = name.lower()
    if len(name) > MAX_NAME_CHARACTERS or not _NAME.fullmatch(lower):
        raise _refuse(
            f"The name of an alias must have 1 to {MAX_NAME_CHARACTERS} characters: letters a to z, digits and"
            " . _ - : + /, with a letter or a digit at the beginning and after each /.",
            "name",
        )
    owner = next((each for each in PROVIDERS.values() if each.naming.claims_if_configured(lower)), None)
    if owner is not None or lower.partition("/")[0] in PROVIDERS or lower.startswith(ALIAS_PREFIX):
        whose = f"a model of {owner.title}" if owner is not None else f"what begins with {lower.partition('/')[0]}/"
        raise _refuse(f"{name!r} has the form of {whose}. Choose another name for the alias.", "name")
    if lower.endswith(tuple(SORT_SUFFIXES)):
        raise _refuse(
            f"{name!r} ends in a routing suffix ({' or '.join(SORT_SUFFIXES)}), which an alias name must not have."
            " Choose another name for the alias.",
            "name",
        )
    return lower


def validate_targets(wanted: Iterable[TargetTerms | str], aliases: Collection[str]) -> list[AliasTarget]:
    """Returns targets in their stored form.

    Args:
        wanted: the targets.
        aliases: the names of all aliases, which no target may have.

    Raises:
        BadRequest: there is none or there are too many, or one of them makes no sense.
    """
    terms = [TargetTerms(name=each) if isinstance(each, str) else each for each in wanted]
    if not terms:
        raise _refuse("An alias needs at least one target, as <provider>/<model>.", "targets")
    if len(terms) > MAX_ALIAS_TARGETS:
        raise _refuse(f"An alias may have at most {MAX_ALIAS_TARGETS} targets, not {len(terms)}.", "targets")
    has_weights = any(each.weight is not None for each in terms)
    found: list[AliasTarget] = []
    for each in terms:
        name = _validate_target_name(each.name, aliases)
        if any(name == other.name for other in found):
            raise _refuse(f"targets has {name!r} twice. Name it once.", "targets")
        weight = 1.0 if each.weight is None and has_weights else each.weight
        if weight is not None and not (math.isfinite(weight) and 0 < weight <= _MAX_WEIGHT):
            raise _refuse(
                f"The weight of {name!r} must be a number above 0 and at most {_MAX_WEIGHT:,}. To send it no requests,"
                " leave the target out.",
                "targets",
            )
        found.append(AliasTarget(name, weight))
    return found


def _validate_target_name(name: str, aliases: Collection[str]) -> str:
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable() or name.strip() != name:
        raise _refuse(
            f"The name of a target must have 1 to {MAX_NAME_CHARACTERS} printable characters, and no space at its"
            " ends.",
            "targets",
        )
    if name.lower() in aliases:
        raise _refuse(f"{name!r} is an alias itself. Name the models that it stands for.", "targets")
    if name.lower().endswith(tuple(SORT_SUFFIXES)):
        raise _refuse(
            f"{name!r} ends in a routing suffix ({' or '.join(SORT_SUFFIXES)}), and a target names its provider"
            " already. Leave it out, or give the alias a sort.",
            "targets",
        )
    split = split_target(name)
    if split is None:
        raise _refuse(
            f"{name!r} does not say which provider is meant. Write <provider>/<model>, with one of:"
            f" {', '.join(PROVIDERS)}.",
            "targets",
        )
    provider, model = split
    return name if model == name else f"{provider.name}/{model}"


def validate_sort(sort: str | None, targets: Iterable[AliasTarget]) -> str | None:
    """Returns the sort criterion of an alias.

    Raises:
        BadRequest: there is no such sort, or the alias also has weights, which contradict it.
    """
    if sort is not None and sort not in get_args(Sort):
        raise _refuse(f"sort is {sort[:100]!r}; it must be one of: {', '.join(get_args(Sort))}.", "sort")
    if sort is not None and any(target.weight is not None for target in targets):
        raise _refuse(
            f"Weights and the sort {sort!r} contradict each other. Take away the sort, or set the targets without"
            " weights.",
            "sort",
        )
    return sort


def validate_overrides(overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns overrides, checked against endpoints' documented fields. Others are the providers' own, and pass.

    Raises:
        BadRequest: a field must not be overridden, or its value fits none of the endpoints that have it.
    """
    content = _encode(overrides)
    if len(content) > _MAX_OVERRIDE_BYTES:
        raise _refuse(f"overrides may have at most {_MAX_OVERRIDE_BYTES:,} bytes, as JSON.", "overrides")
    if b"\\u0000" in content:
        raise _refuse("overrides contains the character NUL. Leave it out.", "overrides")
    for name, value in overrides.items():
        if not name or name in _NOT_OVERRIDDEN:
            raise _refuse(
                f"{name!r} cannot be overridden: overrides are for how a model answers, not for what it is asked.",
                f"overrides.{name}",
            )
        if value is None:
            raise _refuse(f"The override of {name!r} is null. Leave the field out.", f"overrides.{name}")
        _raise_if_override_fits_none(name, value)
        if name in OUTPUT_FIELDS and not 1 <= value <= _MOST_OUTPUT_TOKENS:
            raise _refuse(
                f"In overrides, {name} must be a whole number from 1 to {_MOST_OUTPUT_TOKENS:,}.", f"overrides.{name}"
            )
    return overrides


def _encode(overrides: dict[str, Any]) -> bytes:
    deepest: list[Any] = [overrides]
    for _ in range(_MAX_DEPTH):
        nodes = [each.values() if isinstance(each, dict) else each for each in deepest]
        deepest = [child for node in nodes for child in node if isinstance(child, dict | list)]
    if deepest:
        raise _refuse(f"overrides is nested more than {_MAX_DEPTH} levels deep. Flatten it.", "overrides")
    return msgspec.json.encode(overrides)


def _raise_if_override_fits_none(name: str, value: Any) -> None:
    """Raises BadRequest if endpoints have the field, and its value fits none of them."""
    refusal: BadRequest | None = None
    for kind in {endpoint.body: None for endpoint in ENDPOINTS}:
        if name not in kind.__struct_fields__:
            continue
        try:
            raise_if_field_is_invalid(kind, name, value)
        except BadRequest as error:
            refusal = refusal or error
        else:
            return
    if refusal is not None:
        raise _refuse(f"In overrides, {refusal.message}", f"overrides.{name}")


def _refuse(message: str, param: str) -> BadRequest:
    return BadRequest(message, param=param[:MAX_NAME_CHARACTERS], code="invalid_parameter")
