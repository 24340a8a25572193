"""Limits: who may use how much.

policy.py   the limits of a key, as the snapshot of the keys has them
periods.py  in which period of a budget an instant is
"""

from app.services.limits.periods import WINDOWS, Period, get_period
from app.services.limits.policy import Budget, Policy, Subject, make_policies

__all__ = ["WINDOWS", "Budget", "Period", "Policy", "Subject", "get_period", "make_policies"]
