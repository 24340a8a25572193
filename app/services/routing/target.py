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
        context_length: how many tokens its context has; None if that is not known.
        place: which of the names that the request or its alias gives it was found for, counted from 0. All targets of
            one place are the same model.
        weight: its share of the requests among targets that have one; None if shares were not set.
        overrides: body field → the value that an alias sets.
        applied: the same for people, as in "temperature=0.2".
    """

    provider: Provider
    model: str
    is_listed: bool = False
    context_length: int | None = None
    place: int = 0
    weight: float | None = None
    overrides: Mapping[str, Any] = MappingProxyType({})
    applied: tuple[str, ...] = ()
