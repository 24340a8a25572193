"""The pots of a policy, looked up once for all its requests."""

from __future__ import annotations

from app.services.limits.budget_pots import BudgetPot
from app.services.limits.permits import RatePot
from app.services.limits.policy import Policy
from app.services.limits.pots import Count, Share
from app.services.limits.purse import Purse, Purses

# The purse is filled after this many requests that took from the pots: for fewer it would cost more than it saves.
_FILL_AFTER = 4


class Binding:
    """The pots of a policy, looked up once, and the response headers of its requests.

    Attributes:
        policy: the policy.
        entry: the shares that a request takes from before its body is read: rates of requests, and slots.
        charged: the shares of the budgets.
        metered: the shares that it takes from once its need is known: budgets, and rates of tokens.
        budgets, rates, token_rates: all budgets, all rates, and the rates of tokens.
        used_s: the time of the last request with this policy.
        headers: the response headers; outdated from `headers_until_s` on, on the monotonic clock.
        purse: the purse that its requests take from while it is filled.
    """

    __slots__ = (
        "budgets",
        "_can_fill",
        "_purses",
        "_turns",
        "charged",
        "entry",
        "headers",
        "headers_until_s",
        "metered",
        "policy",
        "purse",
        "rates",
        "token_rates",
        "used_s",
    )

    def __init__(
        self,
        policy: Policy,
        entry: list[Share],
        budgets: list[BudgetPot],
        rates: list[RatePot],
        purses: Purses | None = None,
    ) -> None:
        self.policy = policy
        self.entry = entry
        self.budgets = budgets
        self.rates = rates
        self.token_rates = [rate for rate in rates if rate.kind == "tokens"]
        self.charged = [budget.share for budget in budgets]
        self.metered = self.charged + [rate.share for rate in self.token_rates]
        self.used_s = 0.0
        self.headers: dict[str, str] = {}
        self.headers_until_s = 0.0
        self._purses = Purses() if purses is None else purses
        self.purse = Purse(entry, self.metered, self._purses)
        # A request that is refused before it is sent counts for no budget, only for rates of requests.
        self._can_fill = all(share.count != Count.REQUESTS for share in self.charged)
        self._turns = 0

    def fill_purse(self, now_s: float) -> bool:
        """Refills the purse if it had too little or has expired, or after some requests without one.

        Returns:
            Whether a request can take from it.
        """
        purse = self.purse
        if purse.until_s:
            self._turns = _FILL_AFTER
            purse.put_back()
        self._purses.put_back_expired(now_s)
        self._turns += 1
        if self._turns <= _FILL_AFTER or not self._can_fill:
            return False
        self._turns = 0
        return self.refill_purse(now_s)

    def refill_purse(self, now_s: float) -> bool:
        """Puts back the contents of the purse and refills it; returns False if the pots have too little for that."""
        if self.purse.is_listed:
            self.purse.put_back()
        if not self.purse.list_if_current():
            self.purse = Purse(self.entry, self.metered, self._purses)
        return self.purse.fill(now_s)

    def note_used(self) -> None:
        """Tells the pots the time of the last request, at each tick rather than for each request.

        A pot that was idle for a minute has nothing free, so the next request waits for it, and that updates the time.
        """
        for share in self.entry + self.metered:
            if share.used_s < self.used_s:
                share.used_s = self.used_s
