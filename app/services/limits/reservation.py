"""What one request holds of its limits: from its start to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from app.limit_errors import LimitReached
from app.services.limits.acquisition import Demand, Taken
from app.services.limits.amounts import format_amount
from app.services.limits.binding import Binding
from app.services.limits.budget_pots import BudgetPeriod, BudgetPot
from app.services.limits.charge import NOTHING, Ceiling, Charge, merge_ceilings
from app.services.limits.pots import Pot
from app.services.limits.refusals import (
    Fits,
    describe_warning,
    make_rate_headers,
    make_unbounded_refusal,
    make_unpriced_refusal,
)

# So long all responses have the same headers, while at least so many requests and tokens are left of each rate.
_HEADERS_S = 0.25
_FAR = 1_000

Acquire = Callable[[Sequence[Demand], Fits | None], list[Taken]]


class Reservation:
    """The limits of one request.

    Make it with `Limits.enter`. Call `settle` or `release` once the request has ended; only the first call counts.

    Attributes:
        period_ids: the periods of the budgets that the request is charged to; [] if there is no budget.
        ceiling_cost, ceiling_tokens: the most that the request can cost, in 10⁻¹² USD, and use, in all attempts; None
            if that is not known.
    """

    __slots__ = ("_acquire", "_binding", "_held", "_more", "ceiling_cost", "ceiling_tokens", "period_ids")

    def __init__(self, acquire: Acquire, binding: Binding, held: list[Taken]) -> None:
        self._acquire = acquire
        self._binding = binding
        self._held = held
        # What further attempts took.
        self._more: list[Taken] = []
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
        dearest = ceilings[0] if len(ceilings) == 1 else merge_ceilings(ceilings)
        self.ceiling_cost, self.ceiling_tokens = dearest.cost, dearest.tokens
        binding = self._binding
        demands: list[Demand] = []
        for pot in binding.budgets:
            demands.append((pot, _get_need(pot, dearest, 1)))
        for rate in binding.token_rates:
            wanted = int(rate.mean) if dearest.rate_tokens is None else dearest.rate_tokens
            demands.append((rate, min(wanted, rate.most)))
        if demands:
            try:
                taken = self._acquire(demands, dearest.fits)
            except LimitReached:
                binding.headers_until_s = 0.0  # They say that much is left.
                raise
            self._held += taken
            for _, _, receipt in taken[: len(binding.budgets)]:
                self.period_ids.append(receipt.id)

    def add_attempt(self, ceiling: Ceiling) -> None:
        """Takes from the budgets what a further attempt can use, while an earlier one may still be billed.

        Raises:
            as `reserve`; then the request holds what it held before.
        """
        demands: list[Demand] = [(pot, _get_need(pot, ceiling, 0)) for pot in self._binding.budgets]
        for pot, need, receipt in self._acquire(demands, ceiling.fits):
            self._more.append(self._move(pot, need, receipt))
        cost, tokens = self.ceiling_cost, self.ceiling_tokens
        self.ceiling_cost = None if cost is None or ceiling.cost is None else cost + ceiling.cost
        self.ceiling_tokens = None if tokens is None or ceiling.tokens is None else tokens + ceiling.tokens

    def _move(self, pot: Pot, need: int, receipt: BudgetPeriod) -> Taken:
        """Returns what was taken, moved to the period that the request began in: it is charged to that one alone."""
        first = next((held[2] for held in self._held if held[0] is pot), receipt)
        if first is not receipt:
            pot.settle(receipt, need, 0)
            first.used += need
            first.reserved += need
        return pot, need, first

    def settle(self, charge: Charge) -> None:
        """Replaces what the request holds by what it has used, in all attempts, and frees its slots.

        A mistake in one of the pots is raised once all others are settled: a slot that is not freed is lost for good.
        """
        held, self._held = self._held, []
        fault = None
        for pot, need, receipt in held:
            try:
                pot.settle(receipt, need, pot.get_used(charge, need))
            except Exception as error:
                fault = error
        if self._more:
            more, self._more = self._more, []
            for pot, need, receipt in more:
                pot.settle(receipt, need, 0)
        if fault is not None:
            raise fault

    def release(self) -> None:
        """Ends the request without a charge, unless it is settled."""
        if self._held:
            self.settle(NOTHING)

    def get_headers(self) -> dict[str, str]:
        """Returns the headers of the response: `x-ratelimit-…` if there are rates, and a warning of a budget.

        Do not change them: other responses may have the same.
        """
        binding, now_s = self._binding, time.monotonic()
        if now_s >= binding.headers_until_s:
            _make_headers(binding, now_s)
        return binding.headers


def _make_headers(binding: Binding, now_s: float) -> None:
    """Makes the headers of the next responses, of which the database knows the state of some seconds ago anyway."""
    headers = make_rate_headers(binding.rates, now_s) if binding.rates else {}
    for pot in binding.budgets:
        if pot.budget.warn_percents and (warning := describe_warning(pot, pot.current)) is not None:
            headers["x-gateway-budget-warning"] = warning
            break
    is_far = all(rate.count_left() >= _FAR for rate in binding.rates)
    binding.headers, binding.headers_until_s = headers, now_s + (_HEADERS_S if is_far else 0.0)


def _get_need(pot: BudgetPot, ceiling: Ceiling, requests: int) -> int:
    if pot.unit == "usd":
        if ceiling.cost is None:
            raise make_unpriced_refusal(pot.subject)
        return ceiling.cost
    if pot.unit == "tokens":
        if ceiling.tokens is None:
            raise make_unbounded_refusal()
        return ceiling.tokens
    return requests
