"""The pots of a policy, found once for all requests that have it."""

from __future__ import annotations

from app.services.limits.budget_pots import BudgetPot
from app.services.limits.permits import RatePot
from app.services.limits.policy import Policy
from app.services.limits.pots import Share


class Binding:
    """The pots of a policy, found once, and the headers of the responses to its requests.

    Attributes:
        policy: the policy.
        entry: what each request takes from before it is read: the rates of requests, and the limits of slots.
        charged: the budgets.
        metered: what it takes from once it is known: the budgets, and the rates of tokens.
        budgets, rates, token_rates: all budgets, all rates, and those of tokens.
        used_s: when a request last had this policy.
        headers: those of the responses; to be made again from `headers_until_s` on, on the monotonic clock.
    """

    __slots__ = (
        "budgets",
        "charged",
        "entry",
        "headers",
        "headers_until_s",
        "metered",
        "policy",
        "rates",
        "token_rates",
        "used_s",
    )

    def __init__(self, policy: Policy, entry: list[Share], budgets: list[BudgetPot], rates: list[RatePot]) -> None:
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

    def note_used(self) -> None:
        """Tells the pots when a request last took from them, at each tick rather than for each request.

        A pot that nobody has used for a minute has nothing free, so the next request waits for it, which it notes.
        """
        for share in self.entry + self.metered:
            if share.used_s < self.used_s:
                share.used_s = self.used_s
