"""New keys and groups, and changes of limits, keys and groups, as requested by operators.

Commands and routes fill these Structs; a route decodes its body into them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from app.db.tables import MAX_TOKENS
from app.services.administration.terms import BudgetTerms

MAX_RATE = 10**9

Rate = Annotated[int, msgspec.Meta(ge=1, le=MAX_RATE)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]

# Limits that are a number or none; the columns of a subject have the same names.
PLAIN_LIMITS = ("requests_per_minute", "tokens_per_minute", "concurrent", "max_output_tokens")


class LimitChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of the limits of a subject. A field that is absent stays, and null takes the limit away.

    Attributes:
        models: patterns of `provider/model id`; [] allows all.
        requests_per_minute, tokens_per_minute: in any 60 s.
        concurrent: requests at once.
        max_output_tokens: the most that a request may ask for.
        budgets: all budgets that there are to be; others end. As objects, or as texts that `parse_budget` reads.
    """

    models: tuple[str, ...] | UnsetType = UNSET
    requests_per_minute: Rate | None | UnsetType = UNSET
    tokens_per_minute: Tokens | None | UnsetType = UNSET
    concurrent: Rate | None | UnsetType = UNSET
    max_output_tokens: Tokens | None | UnsetType = UNSET
    budgets: tuple[BudgetTerms | str, ...] | UnsetType = UNSET

    def has_limits(self) -> bool:
        """Returns whether there is any change."""
        return any(getattr(self, name) is not UNSET for name in ("models", "budgets", *PLAIN_LIMITS))

    def sets_limits(self) -> bool:
        """Returns whether there is to be a limit."""
        return any(getattr(self, name) not in (UNSET, None, ()) for name in ("models", "budgets", *PLAIN_LIMITS))


class HolderChanges(LimitChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of the holder of a key; fields that are absent stay.

    Attributes:
        group: the name or the id of its group; None for none.
    """

    group: str | None | UnsetType = UNSET

    def has_limits(self) -> bool:
        """Returns whether anything of the holder is to change."""
        return self.group is not UNSET or super().has_limits()

    def sets_limits(self) -> bool:
        """Returns whether a holder is to get a group or a limit."""
        return self.group not in (UNSET, None) or super().sets_limits()


class NewKey(HolderChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to be made.

    Attributes:
        name: what to call it.
        holder: the name of its holder, which may be new only if a group or limits are given; by default a key without
            them has none, and one with them has a new holder with the name of the key.
        expires_at: from when on it does not work; None for never.
        is_operator: whether it has all rights; then it has no holder.
    """

    name: str
    holder: str | UnsetType = UNSET
    expires_at: datetime | None = None
    is_operator: bool = False


class KeyChanges(HolderChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a key and its holder; fields that are absent stay."""

    name: str | UnsetType = UNSET
    expires_at: datetime | None | UnsetType = UNSET


class NewGroup(LimitChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group to be made."""

    name: str


class GroupChanges(LimitChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a group; fields that are absent stay."""

    name: str | UnsetType = UNSET
