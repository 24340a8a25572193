"""A target of requests: a provider, and the id of a model there."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from app.services.providers import Provider


class Target(NamedTuple):
    """A provider that serves a model.

    Attributes:
        provider: the provider.
        model: the model's id there, which is sent as `model`.
        is_listed: whether the provider's list contains it. If not, the name comes from the caller and is not verified.
        context_length: the tokens in the model's context; None if not known.
        place: the index of the name, in the request or its alias, that it was found for. All targets of one place are
            the same model.
        weight: its share of the requests among targets with a weight; None if no shares were set.
        overrides: body field → the value that an alias sets.
        applied: the same in readable form, as in "temperature=0.2".
    """

    provider: Provider
    model: str
    is_listed: bool = False
    context_length: int | None = None
    place: int = 0
    weight: float | None = None
    overrides: Mapping[str, Any] = MappingProxyType({})
    applied: tuple[str, ...] = ()
