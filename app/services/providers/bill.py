"""The bill of a provider, in one form for all, and where the provider publishes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

import msgspec

from app.config import Settings


class BilledUse(msgspec.Struct, frozen=True, kw_only=True):
    """The use of one model on one UTC day, as the provider counts it.

    Attributes:
        model: as the provider names it.
        prompt_tokens, completion_tokens: cached and reasoning tokens included.
        cost_usd: None if the provider has not said.
    """

    day: date
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: Decimal | None = None


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of a provider for some days.

    Attributes:
        account: whose bill it is, as the provider names it; several with commas between.
        uses: one for each day and model; days and models without any are missing.
        costs_refusal: why the provider did not say what was paid; None if it did.
        named: day → (prompt tokens, completion tokens) of the requests that had the gateway's name, of all models; None
            if it was not asked for them.
    """

    account: str
    uses: Sequence[BilledUse]
    costs_refusal: str | None = None
    named: Mapping[date, tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BillSource:
    """Where a provider says what it billed; compared by identity.

    Attributes:
        fetch: (settings, first day, last day, the gateway's name or None) → the bill of these UTC days, both included
            and at most 31; raises UpstreamError. None if only the answers to requests say what each of them cost.
        key_setting: the setting whose key may read the bill; None if none is needed.
        tokens_settle_after: how long after a day's end its tokens are complete.
        costs_settle_after: the same of its costs.
    """

    fetch: Callable[[Settings, date, date, str | None], Bill] | None
    key_setting: str | None
    tokens_settle_after: timedelta
    costs_settle_after: timedelta

    def is_readable(self, settings: Settings) -> bool:
        """Returns whether the key that may read the bill is set, or none is needed."""
        return self.key_setting is None or bool(getattr(settings, self.key_setting.lower()))
