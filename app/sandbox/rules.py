"""Rules for single values, from which the request validation builds its tables.

A rule is a function of the value. It returns None or the message of a pydantic validation error. Null passes every
rule, because Fireworks treats it as absent.
"""

from collections.abc import Callable
from typing import Any

Rule = Callable[[Any], str | None]


def any_value(value: Any) -> str | None:
    """Accepts everything."""
    return None


def number(low: float, high: float) -> Rule:
    """Accepts numbers from `low` to `high`; booleans are not numbers."""

    def check(value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "Input should be a valid number"
        return _check_range(value, low, high)

    return check


def integer(low: int, high: int = 2**63 - 1) -> Rule:
    """Accepts whole numbers from `low` to `high`; booleans are not numbers."""

    def check(value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            return "Input should be a valid integer"
        return _check_range(value, low, high)

    return check


def _check_range(value: float, low: float, high: float) -> str | None:
    if value < low:
        return f"Input should be greater than or equal to {low}"
    return f"Input should be less than or equal to {high}" if value > high else None


def boolean(value: Any) -> str | None:
    """Accepts true and false."""
    return None if value is None or isinstance(value, bool) else "Input should be a valid boolean"


def string(value: Any) -> str | None:
    """Accepts strings."""
    return None if value is None or isinstance(value, str) else "Input should be a valid string"


def mapping(value: Any) -> str | None:
    """Accepts objects."""
    return None if value is None or isinstance(value, dict) else "Input should be a valid dictionary"


def one_of(*allowed: str) -> Rule:
    """Accepts exactly the listed strings."""
    names = ", ".join(f"'{name}'" for name in allowed[:-1]) + f" or '{allowed[-1]}'"

    def check(value: Any) -> str | None:
        return None if value is None or value in allowed else f"Input should be {names}"

    return check


def either(*rules: Rule) -> Rule:
    """Accepts values that any of the rules accepts; otherwise returns the problem of the first one."""

    def check(value: Any) -> str | None:
        problems = [rule(value) for rule in rules]
        return None if None in problems else problems[0]

    return check


def list_of(rule: Rule, at_most: int) -> Rule:
    """Accepts lists of at most `at_most` items that all pass `rule`."""

    def check(value: Any) -> str | None:
        if not isinstance(value, list):
            return "Input should be a valid list"
        if len(value) > at_most:
            return f"List should have at most {at_most} items after validation, not {len(value)}"
        return next((problem for item in value if (problem := rule(item))), None)

    return check
