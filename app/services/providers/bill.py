"""A provider's bill, in one form for all providers, and its source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

import msgspec

from app.config import Settings


class BilledUse(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one model on one UTC day, by the provider's count.

    Attributes:
        model: the provider's name of it.
        prompt_tokens, completion_tokens: including cached and reasoning tokens.
        cost_usd: None if the provider has not stated it.
    """

    day: date
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Decimal | None = None


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's answer for some days.

    Attributes:
        account: the billed account in the provider's words; several are separated by commas.
        uses: one for each day and model; days and models without any are missing.
        costs_refusal: why the provider did not state the cost; None if it did.
        named: day → (prompt tokens, completion tokens) of the requests with the gateway's name, for all models; None if
            they were not requested.
    """

    account: str
    uses: Sequence[BilledUse]
    costs_refusal: str | None = None
    named: Mapping[date, tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BillSource:
    """The source of a provider's bill; compared by identity.

    Attributes:
        fetch: (settings, first day, last day, the gateway's name or None) → the bill of these UTC days, both included
            and at most 31; raises UpstreamError. None if only the answers to requests state the cost of each.
        key_setting: the setting with the key for the bill; None if none is needed.
        tokens_settle_after: how long after a day's end its tokens are complete.
        costs_settle_after: the same for its costs.
    """

    fetch: Callable[[Settings, date, date, str | None], Bill] | None
    key_setting: str | None
    tokens_settle_after: timedelta
    costs_settle_after: timedelta

    def is_readable(self, settings: Settings) -> bool:
        """Returns whether the key for the bill is set, or none is needed."""
        return self.key_setting is None or bool(getattr(settings, self.key_setting.lower()))
