"""Limits: who may use how much.

policy.py   the limits of a key, as the snapshot of the keys has them
"""

from app.services.limits.policy import Budget, Policy, Subject, make_policies

__all__ = ["Budget", "Policy", "Subject", "make_policies"]
