"""What a request can be sent to: a provider, and the id of a model there."""

from __future__ import annotations

from typing import NamedTuple

from app.services.providers import Provider


class Target(NamedTuple):
    """A provider that serves a model.

    Attributes:
        provider: the provider.
        model: the model's id there, which is sent as `model`.
        is_listed: whether the provider's list contains it. If not, the name comes from the caller and is not verified.
        context_length: how many tokens its context has; None if that is not known.
    """

    provider: Provider
    model: str
    is_listed: bool = False
    context_length: int | None = None
