"""The figures of a reconciliation: the gateway's records beside the provider's bill."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Literal

import msgspec

# A day is compared once the provider's figures for it are complete: first its tokens, later its costs.
DayState = Literal["settled", "costs_open", "open", "not_fetched"]

FindingKind = Literal[
    "day_not_billed",
    "day_not_recorded",
    "model_not_billed",
    "model_not_recorded",
    "tokens_differ",
    "price_differs",
]

# The meanings of a difference, by the name that findings have for it.
CAUSES: dict[str, str] = {
    "bill_incomplete": "The provider's figures lack it. Fetch the month again later; if it stays so, ask the provider.",
    "other_clients": "Something else used the account: another gateway, a program with its key, or a page.",
    "records_missing": "Records are missing. GET /api/activity/integrity says whether any are.",
    "counted_twice": "Two sides that differ by a factor of two: the provider billed requests twice, or another gateway"
    " has the same traffic.",
    "unfinished_requests": "Requests ended early or were lost. The gateway estimates their tokens, or knows none; the"
    " provider bills what it generated.",
    "failed_attempts": "Answers of this provider that failed before their first event were sent again or elsewhere."
    " The provider may bill them, and the tokens of a record are those of its last attempt.",
    "not_billed": "The provider did not bill what it served, such as answers that failed.",
    "price_changed": "The provider's price is not the catalog's. Compare it with the provider's price list; PRICE_FILE"
    " sets a price of your own, such as one that you agreed on.",
    "other_tier": "A part of the requests was billed at another tier, or with another discount for cached tokens.",
}


class Compared(msgspec.Struct, kw_only=True):
    """Recorded and billed figures beside each other: in all, on a day, of a model, or of a model on a day.

    Billed figures are those of settled days. Differences are billed minus recorded, capture is recorded / billed; each
    is None where there is nothing to compare.

    Attributes:
        day, model: None for all of them.
        state: of the day; None where there are several.
        requests: as recorded.
        unfinished_requests: those of them that were lost or cut, whose usage is estimated or not known.
        unpriced_requests: those of them without a known cost.
        recorded_cost: USD, exact and estimated.
        estimated_cost: the estimated part of it.
        compared_cost: the part of it that stands against the billed cost; None if none does.
        expected_cost: USD, what the billed tokens cost at the gateway's price.
        priced_cost: the part of the billed cost for which there is an expected one.
        price_drift: priced_cost / expected_cost - 1.
        expected_from: "list" if the catalog's price gives the recorded cost exactly; "records" if it does not, and the
            recorded cost per token was used; None if there is no expected cost.
    """

    day: date | None = None
    model: str | None = None
    state: DayState | None = None
    requests: int = 0
    unfinished_requests: int = 0
    unpriced_requests: int = 0
    recorded_prompt_tokens: int = 0
    recorded_completion_tokens: int = 0
    billed_prompt_tokens: int | None = None
    billed_completion_tokens: int | None = None
    token_difference: int | None = None
    token_capture: float | None = None
    recorded_cost: Decimal = Decimal(0)
    estimated_cost: Decimal = Decimal(0)
    compared_cost: Decimal | None = None
    billed_cost: Decimal | None = None
    cost_difference: Decimal | None = None
    cost_capture: float | None = None
    expected_cost: Decimal | None = None
    priced_cost: Decimal | None = None
    price_drift: float | None = None
    expected_from: Literal["list", "records"] | None = None

    @property
    def recorded_tokens(self) -> int:
        """Prompt and completion together, as recorded."""
        return self.recorded_prompt_tokens + self.recorded_completion_tokens

    @property
    def billed_tokens(self) -> int | None:
        """Prompt and completion together, as billed."""
        if self.billed_prompt_tokens is None or self.billed_completion_tokens is None:
            return None
        return self.billed_prompt_tokens + self.billed_completion_tokens


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A difference outside of the band, on all days on which it is of the same kind.

    Attributes:
        model: None for all models of the days.
        token_difference: billed minus recorded, of these days.
        cost_difference: USD, billed minus recorded; for "price_differs" billed minus expected; None if not known.
        causes: what it can mean, the most likely first; names of CAUSES.
        meanings: the same in words.
    """

    kind: FindingKind
    model: str | None
    days: list[date]
    token_difference: int
    cost_difference: Decimal | None
    causes: list[str]
    meanings: list[str]


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's bill of a month beside the gateway's records.

    Attributes:
        month: such as "2026-11"; start, end: its first day, and the day after its last, `from` and `to` in JSON.
        source: "bill" if the provider has one that programs can read, "answers" if each answer says what it cost.
        account: whose bill it is; None if it was not fetched.
        fetched_at: when its oldest day was fetched; None if none was.
        band_from, band_to: RECONCILE_BAND, as shares.
        is_in_band: whether the captures of tokens and costs lie in it; None if there is nothing to compare.
        total: of the settled days.
        estimated_share: the estimated part of the recorded cost; None if nothing is recorded.
        unfinished_share: the part of the requests that were lost or cut.
        differing_requests, compared_requests: of requests whose answer said what they cost: those whose recorded cost
            is another, and all; None if the source is "bill".
        other_tokens: tokens of the account on settled days that have another name than GATEWAY_NAME; None without it.
        days, models, lines: by day, by model (the most tokens first), and by both.
        problem: why figures are missing; None if none are.
    """

    gateway: str
    month: str
    start: date = msgspec.field(name="from")
    end: date = msgspec.field(name="to")
    source: Literal["bill", "answers"]
    account: str | None
    fetched_at: datetime | None
    band_from: float
    band_to: float
    is_in_band: bool | None
    total: Compared
    estimated_share: float | None
    unfinished_share: float | None
    differing_requests: int | None
    compared_requests: int | None
    other_tokens: int | None
    problem: str | None
    findings: list[Finding]
    days: list[Compared]
    models: list[Compared]
    lines: list[Compared]
