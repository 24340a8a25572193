"""The amounts that one request holds under its limits, from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Sequence

from app.services.limits.acquisition import Taken, take_at_once
from app.services.limits.amounts import format_amount
from app.services.limits.binding import Binding
from app.services.limits.charge import NOTHING, Ceiling, Used, merge_ceilings
from app.services.limits.permits import RatePot
from app.services.limits.pots import Count, Lot, Share
from app.services.limits.purse import Purse
from app.services.limits.refusals import Fits, describe_warning, make_rate_headers
from app.services.limits.waiting import LimitWaiting

# While much is left of each rate, responses share their headers for this long, in seconds.
_HEADERS_S = 0.25


class Reservation:
    """The limits of one request.

    Make it with `Limits.enter`. Call `settle` or `release` once the request has ended; only the first call counts.

    Args:
        waiting: takes from pots that do not have enough at once.
        binding: the pots of the request's key.
        held: the amounts that the request holds of single pots.
        purse: the purse that it began with; None if it has taken from the pots.

    Attributes:
        waiting, binding, held, purse: as above.
        reserved_of: the purse that holds its ceiling; None if it has taken from the pots.
        period_ids: the ids of the budget periods that the request is charged to; [] without a budget.
        rate_tokens: the tokens that it has reserved of token rates, if it did so from a purse.
        ceiling_cost, ceiling_tokens: the highest cost of the request, in 10⁻¹² USD, and its most tokens, for all
            attempts; None if not known.
        is_silent: whether the request does not say how much output it wants; then token rates reserve a mean.
    """

    __slots__ = (
        "binding", "ceiling_cost", "ceiling_tokens", "held", "is_silent", "period_ids", "purse", "rate_tokens",
        "reserved_of", "waiting",
    )  # fmt: skip

    def __init__(self, waiting: LimitWaiting, binding: Binding, held: list[Taken], purse: Purse | None = None) -> None:
        self.waiting = waiting
        self.binding = binding
        self.held = held
        self.purse = purse
        self.reserved_of: Purse | None = None
        self.rate_tokens = 0
        self.period_ids: list[int] = []
        self.ceiling_cost: int | None = 0
        self.ceiling_tokens: int | None = 0
        self.is_silent = False

    @property
    def ceiling_usd(self) -> str | None:
        """The ceiling in USD, in the form of the record; None if it is not known."""
        return None if self.ceiling_cost is None else format_amount(self.ceiling_cost, "usd")

    def reserve(self, ceilings: Sequence[Ceiling]) -> None:
        """Takes the amounts that the request can use from all budgets and token rates, or from none.

        Args:
            ceilings: the ceilings of all targets that the request may be sent to, at least one; the dearest counts.

        Raises:
            as `hold`.
        """
        dearest = ceilings[0] if len(ceilings) == 1 else merge_ceilings(ceilings)
        if self.binding.metered:
            self.hold(dearest.cost, dearest.tokens, dearest.rate_tokens, dearest.fits, time.monotonic())
        else:
            self.ceiling_cost, self.ceiling_tokens = dearest.cost, dearest.tokens

    def hold(self, cost: int | None, tokens: int | None, rate_tokens: int | None, fits: Fits, now_s: float) -> None:
        """Takes from all budgets and token rates, or from none; there is at least one.

        Args:
            cost, tokens, rate_tokens, fits: see Ceiling.
            now_s: the time, on the monotonic clock.

        Raises:
            InsufficientQuota: a budget has too little left.
            LimitReached: running requests hold the rest of a budget, or a rate is reached.
            Unavailable: the database cannot be asked.
            ValueError: a budget needs an amount that is None.
        """
        self.ceiling_cost, self.ceiling_tokens = cost, tokens
        binding = self.binding
        purse = binding.purse
        if now_s < purse.until_s and cost is not None and tokens is not None:
            need = rate_tokens
            if need is None and not binding.token_rates:
                need = 0
            if (
                need is not None
                and need <= purse.rate_tokens
                and cost <= purse.cost
                and cost <= purse.largest_cost
                and tokens <= purse.tokens
                and tokens <= purse.largest_tokens
            ):
                purse.cost -= cost
                purse.tokens -= tokens
                purse.rate_tokens -= need
                self.rate_tokens, self.reserved_of, self.period_ids = need, purse, purse.period_ids
                return
            if need is not None:
                purse.put_back()  # It has too little, and is refilled some requests later.
        self.is_silent = rate_tokens is None
        needs = (cost, tokens, 1, rate_tokens, 0)
        taken = take_at_once(binding.metered, needs, now_s)
        if taken is None:
            taken = self.waiting.take(binding, binding.metered, needs, fits, now_s)
        self.held += taken
        if binding.charged:
            self.period_ids = period_ids = []
            for _, _, lot in taken[: len(binding.charged)]:  # A comprehension would cost a call.
                period_ids.append(lot.id)

    def add_attempt(self, ceiling: Ceiling) -> None:
        """Takes the amounts that a further attempt can use from the budgets, while an earlier one may still be billed.

        Raises:
            as `reserve`; then the request holds the same as before.
        """
        self._lift()
        needs = (ceiling.cost, ceiling.tokens, 0, 0, 0)
        budgets, now_s = self.binding.charged, time.monotonic()
        taken = take_at_once(budgets, needs, now_s)
        if taken is None:
            taken = self.waiting.take(self.binding, budgets, needs, ceiling.fits, now_s)
        for share, need, lot in taken:
            self._merge(share, need, lot)
        cost, tokens = self.ceiling_cost, self.ceiling_tokens
        self.ceiling_cost = None if cost is None or ceiling.cost is None else cost + ceiling.cost
        self.ceiling_tokens = None if tokens is None or ceiling.tokens is None else tokens + ceiling.tokens

    def _merge(self, share: Share, more: int, lot: Lot) -> None:
        """Adds a further amount to a pot's entry, in the lot that the request began in, because that one is charged."""
        at, need, first = next((at, need, lot) for at, (held, need, lot) in enumerate(self.held) if held is share)
        self.held[at] = share, need + more, first
        if lot is not first:
            for each, change in ((lot, -more), (first, more)):
                each.free -= change
            share.pot.note_settled(lot)

    def settle(self, charge: Used) -> None:
        """Replaces the amounts that the request holds with its use in all attempts, and frees its slots.

        A mistake in one pot is raised after all others are settled, because a slot that is not freed is lost for good.
        """
        purse = self.purse
        if purse is not None and purse is self.reserved_of and (purse.is_listed or purse.list_if_current()):
            self.purse = self.reserved_of = None
            cost, tokens, requests, rate_tokens, _ = charge
            purse.slots += 1
            purse.spent_cost += cost
            purse.spent_tokens += tokens
            purse.freed_cost += self.ceiling_cost  # type: ignore[operator]  # Only what is known is taken of a purse.
            purse.freed_tokens += self.ceiling_tokens  # type: ignore[operator]
            if rate_tokens is not None:
                purse.freed_rate_tokens += self.rate_tokens - rate_tokens
            if not requests:
                purse.unused_permits += 1
        else:
            self._lift()
            if self.held:
                self._settle_pots(charge)

    def _settle_pots(self, charge: Used) -> None:
        held, self.held = self.held, []
        fault = None
        for share, need, lot in held:
            used = charge[share.count]
            if used is None:
                used = need
            lot.spent += used
            if used != need:
                lot.free += need - used
            if lot is not share.lot or share.is_watched or lot.free < 0:
                try:
                    share.pot.note_settled(lot)
                except Exception as error:
                    fault = error
        if self.is_silent and charge[Count.REQUESTS]:
            self._note_mean(charge[Count.RATE_TOKENS])
        if fault is not None:
            raise fault

    def _lift(self) -> None:
        """Moves the request's amounts from purses to its list of pots, so that it gives them back to the pots."""
        if self.purse is not None:
            self.held += self.purse.lift(0, 0, 0, metered=False)
        if self.reserved_of is not None:
            self.held += self.reserved_of.lift(self.ceiling_cost, self.ceiling_tokens, self.rate_tokens, metered=True)
        self.purse = self.reserved_of = None

    def _note_mean(self, tokens: int | None) -> None:
        if tokens is not None:
            for rate in self.binding.token_rates:
                rate.note_use(tokens)

    def release(self) -> None:
        """Ends the request without a charge, unless it is already settled."""
        if self.held or self.purse is not None:
            self.settle(NOTHING)

    def get_headers(self) -> dict[str, str]:
        """Returns the response headers: `x-ratelimit-…` if there are rates, and a budget's warning.

        Do not change them, because other responses may share them.
        """
        binding, now_s = self.binding, time.monotonic()
        if now_s >= binding.headers_until_s:
            _renew_headers(binding, now_s)
        return binding.headers


def _renew_headers(binding: Binding, now_s: float) -> None:
    """Renews the headers of the next responses. The database's state in them is some seconds old anyway."""
    is_filled = binding.purse.until_s > now_s
    if is_filled:
        binding.purse.put_back()
    headers = make_rate_headers(binding.rates, now_s) if binding.rates else {}
    for pot in binding.budgets:
        if pot.budget.warn_percents and (warning := describe_warning(pot, pot.current)) is not None:
            headers["x-gateway-budget-warning"] = warning
            break
    is_far = all(map(RatePot.is_far, binding.rates))
    binding.headers, binding.headers_until_s = headers, now_s + (_HEADERS_S if is_far else 0.0)
    if is_filled:
        binding.refill_purse(now_s)
