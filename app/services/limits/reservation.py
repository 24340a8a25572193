"""What one request holds of its limits: from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from app.services.limits.acquisition import Demand, Taken
from app.services.limits.amounts import format_amount
from app.services.limits.binding import Binding
from app.services.limits.budget_pots import BudgetPeriod, BudgetPot
from app.services.limits.permits import RatePot
from app.services.limits.pots import Pot, SlotPot
from app.services.limits.refusals import (
    Fits,
    describe_warning,
    make_rate_headers,
    make_unbounded_refusal,
    make_unpriced_refusal,
)

Acquire = Callable[[Sequence[Demand], Fits | None], list[Taken]]


class Ceiling(msgspec.Struct, frozen=True):
    """The most that a request can use at one target.

    Attributes:
        cost: in 10⁻¹² USD; None if the price is not known.
        tokens: prompt and output; None if they have no bound.
        rate_tokens: the estimate of the prompt and the output that was asked for; None if the request does not say how
            much output it wants. Then it is taken to use as much as others did lately.
        fits: (10⁻¹² USD left, tokens left) → the max_tokens with which the request would fit; None if with none.
    """

    cost: int | None
    tokens: int | None
    rate_tokens: int | None
    fits: Callable[[int, int], int | None]


class Charge(msgspec.Struct, frozen=True):
    """What a request has used.

    Attributes:
        cost: in 10⁻¹² USD; the ceiling if it is not known.
        tokens: prompt and output; the ceiling if they are not known.
        requests: 1, or 0 if nothing was sent to a provider.
        rate_tokens: what counts for the rate of tokens; None if it is not known, then what was reserved.
    """

    cost: int
    tokens: int
    requests: int
    rate_tokens: int | None


NOTHING = Charge(0, 0, 0, 0)


class Reservation:
    """The limits of one request.

    Make it with `Limits.enter`. Call `settle` once the request has ended and `release` when its response is complete;
    both work once and may be called in any order.

    Attributes:
        period_ids: the periods of the budgets that the request is charged to; [] if there is no budget.
        ceiling_cost, ceiling_tokens: the most that the request can cost, in 10⁻¹² USD, and use, in all attempts; None
            if that is not known.
    """

    __slots__ = ("_binding", "_acquire", "_held", "_slots", "ceiling_cost", "ceiling_tokens", "period_ids")

    def __init__(self, acquire: Acquire, binding: Binding, held: list[Taken]) -> None:
        self._acquire = acquire
        self._binding = binding
        # Those of slots apart, because they are held longer.
        self._slots = [taken for taken in held if isinstance(taken[0], SlotPot)]
        self._held = [taken for taken in held if not isinstance(taken[0], SlotPot)]
        self.period_ids: list[int] = []
        self.ceiling_cost: int | None = 0
        self.ceiling_tokens: int | None = 0

    @property
    def ceiling_usd(self) -> str | None:
        """The ceiling in USD, as the record has it; None if it is not known."""
        return None if self.ceiling_cost is None else format_amount(self.ceiling_cost, "usd")

    def reserve(self, ceilings: Sequence[Ceiling]) -> None:
        """Takes from all budgets and token rates as much as the request can use, or nothing.

        Args:
            ceilings: of each target that the request may be sent to, at least one; the dearest counts.

        Raises:
            InsufficientQuota: a budget has too little left.
            LimitReached: requests in flight hold what is left of a budget, or a rate is reached.
            PermissionDenied: there is a budget in USD, and the price of a target is not known.
            BadRequest: there is a budget in tokens, and the output has no bound.
            Unavailable: the database cannot be asked.
        """
        costs, tokens = [each.cost for each in ceilings], [each.tokens for each in ceilings]
        self.ceiling_cost = None if None in costs else max(costs)  # type: ignore[type-var]
        self.ceiling_tokens = None if None in tokens else max(tokens)  # type: ignore[type-var]
        binding = self._binding
        demands: list[Demand] = [(pot, self._get_need(pot, 1)) for pot in binding.budgets]
        for rate in binding.token_rates:
            wanted = [each.rate_tokens for each in ceilings if each.rate_tokens is not None]
            demands.append((rate, min(max(wanted, default=int(rate.mean)), rate.most)))
        if demands:
            dearest = max(ceilings, key=lambda each: (each.cost or 0, each.tokens or 0))
            self._held += self._acquire(demands, dearest.fits)
            self.period_ids = [receipt.id for _, _, receipt in self._held if isinstance(receipt, BudgetPeriod)]

    def add_attempt(self, ceiling: Ceiling) -> None:
        """Takes from the budgets what a further attempt can use, while an earlier one may still be billed.

        Raises:
            as `reserve`; then the request holds what it held before.
        """
        before = self.ceiling_cost, self.ceiling_tokens
        cost, tokens = ceiling.cost, ceiling.tokens
        demands: list[Demand] = []
        self.ceiling_cost, self.ceiling_tokens = cost, tokens
        try:
            demands = [(pot, self._get_need(pot, 0)) for pot in self._binding.budgets]
            taken = self._acquire(demands, ceiling.fits)
        except BaseException:
            self.ceiling_cost, self.ceiling_tokens = before
            raise
        self.ceiling_cost = None if before[0] is None or cost is None else before[0] + cost
        self.ceiling_tokens = None if before[1] is None or tokens is None else before[1] + tokens
        self._held += [self._move(*each) for each in taken]

    def _move(self, pot: Pot, need: int, receipt: BudgetPeriod) -> Taken:
        """Returns what was taken, moved to the period that the request began in: it is charged to that one alone."""
        first = next((held[2] for held in self._held if held[0] is pot), receipt)
        if first is not receipt:
            pot.settle(receipt, need, 0)
            first.used += need
            first.reserved += need
        return pot, need, first

    def _get_need(self, pot: BudgetPot, requests: int) -> int:
        if pot.unit == "usd":
            if self.ceiling_cost is None:
                raise make_unpriced_refusal(pot.subject)
            return self.ceiling_cost
        if pot.unit == "tokens":
            if self.ceiling_tokens is None:
                raise make_unbounded_refusal()
            return self.ceiling_tokens
        return requests

    def settle(self, charge: Charge) -> None:
        """Replaces what the request holds by what it has used. Later calls do nothing."""
        held, self._held = self._held, []
        budgets: dict[Pot, bool] = {}
        for pot, need, receipt in held:
            if isinstance(pot, BudgetPot):
                # All of a further attempt's reservation goes back: the charge is that of all attempts.
                used = 0 if pot in budgets else _get_used(pot, charge)
                budgets[pot] = True
                pot.settle(receipt, need, used)
            elif isinstance(pot, RatePot):
                if pot.kind == "requests":
                    pot.settle(receipt, need, charge.requests)
                else:
                    used_tokens = need if charge.rate_tokens is None else charge.rate_tokens
                    if charge.requests and charge.rate_tokens is not None:
                        pot.note_use(charge.rate_tokens)
                    pot.settle(receipt, need, used_tokens)

    def release(self) -> None:
        """Ends the request: its slots are free, and what was not settled goes back. Later calls do nothing."""
        self.settle(NOTHING)
        slots, self._slots = self._slots, []
        for pot, need, receipt in slots:
            pot.settle(receipt, need, 0)

    def get_headers(self) -> dict[str, str]:
        """Returns the headers of the response: `x-ratelimit-…` if there are rates, and a warning of a budget."""
        binding = self._binding
        headers = make_rate_headers(binding.rates, time.monotonic()) if binding.rates else {}
        for pot in binding.budgets:
            if (warning := describe_warning(pot, pot.current)) is not None:
                headers["x-gateway-budget-warning"] = warning
                break
        return headers


def _get_used(pot: BudgetPot, charge: Charge) -> int:
    if pot.unit == "usd":
        return charge.cost
    return charge.tokens if pot.unit == "tokens" else charge.requests
