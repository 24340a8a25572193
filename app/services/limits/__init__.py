"""Limits: who may use how much, and the reservations of each request.

policy.py        the limits of a key, as the snapshot of the keys has them
periods.py       in which period of a budget an instant is     amounts.py    amounts as whole numbers
limits.py        the limits of this worker                     binding.py    the pots of a policy
acquisition.py   gives a request its amounts at once       waiting.py   or makes it wait, or refuses it
purse.py         amounts that a policy's requests hold jointly, while much is left
reservation.py   the amounts that one request holds        charge.py     its ceiling and its charge
pots.py, budget_pots.py, permits.py   this worker's draws of slots, budgets and rates
drawing.py       the thread that draws and gives back; lease_draws.py and rate_draws.py make its calls
watching.py      reads the state of all every two seconds, and warns     clock.py    PostgreSQL's clock
refusals.py      errors and headers
"""

from app.services.limits.acquisition import Taken
from app.services.limits.amounts import describe_amount, format_amount, parse_amount
from app.services.limits.binding import Binding
from app.services.limits.charge import NOTHING, Ceiling, Charge, Used, is_at_most
from app.services.limits.limits import Limits, get_outstanding, stop_limits
from app.services.limits.periods import WINDOWS, Period, compute_reset, get_period
from app.services.limits.policy import Budget, Policy, Subject, make_policies, matches
from app.services.limits.purse import Purse
from app.services.limits.reservation import Reservation
from app.services.limits.waiting import LimitWaiting
from app.services.limits.watching import BudgetWarning

# fmt: off
__all__ = [
    "NOTHING", "WINDOWS", "Binding", "Budget", "BudgetWarning", "Ceiling", "Charge", "LimitWaiting", "Limits", "Period",
    "Policy", "Purse", "Reservation", "Subject", "Taken", "Used",
    "compute_reset", "describe_amount", "format_amount", "get_outstanding", "get_period", "is_at_most", "make_policies",
    "matches", "parse_amount", "stop_limits",
]
# fmt: on
