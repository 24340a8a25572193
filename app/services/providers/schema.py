"""The fields that a provider's schema allows in the objects of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Schema(NamedTuple):
    """The fields that an object may have; the provider refuses an object with any other.

    Attributes:
        names: all allowed fields. If `type` is one of them, the schema only covers objects whose type is also in it.
        nested: the allowed fields whose value is an object, or a list of objects, with a schema of its own.
    """

    names: frozenset[str]
    nested: Mapping[str, Schema]


def make_schema(*names: str, **nested: Schema) -> Schema:
    """Returns the schema of an object with these fields, and with nested objects below the keyword arguments."""
    return Schema(frozenset({*names, *nested}), nested)
