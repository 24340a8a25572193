"""The terms of a budget: as an object, and as the text that commands accept.

    50/month              50 USD in each calendar month
    5M-tokens/day         five million tokens a day; k, M and G stand for 10^3, 10^6 and 10^9
    1000-requests/24h     1000 requests in the last 24 hours

The windows are day, week, month, total, 24h and 30d.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from typing import Annotated, Literal
from zoneinfo import available_timezones

import msgspec
from msgspec import UNSET, UnsetType

from app.errors import BadRequest
from app.services.limits import WINDOWS

# All prices are multiples of 10^-12 USD, and columns have 18 digits before the point.
MAX_AMOUNT = Decimal(10) ** 15
_USD_PLACES = 12
_FORM = re.compile(r"\$?([\d.]+)([kMG]?)(?:[- ]?(usd|tokens?|requests?))?/(\S+)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_SHORT_WINDOWS = {window.removeprefix("rolling:"): window for window in WINDOWS}
_EXAMPLES = "such as 50/month (USD), 5M-tokens/day or 1000-requests/24h"
_WINDOW_NAMES = ", ".join(_SHORT_WINDOWS)


class BudgetTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The terms of a budget; see app.services.limits.Budget. A subject has one budget of each unit and window at most.

    Attributes:
        amount: in the unit.
        timezone: in which its days begin.
        first_day: with which day a week (1 is Monday) or a month begins.
        warn_percents: of which shares of the amount to warn, ascending.

    The last three stay as they are if they are absent; of a new budget they are UTC, 1, and none.
    """

    amount: Decimal
    unit: Literal["usd", "tokens", "requests"] = "usd"
    window: str
    timezone: str | UnsetType = UNSET
    first_day: Annotated[int, msgspec.Meta(ge=1, le=28)] | UnsetType = UNSET
    warn_percents: tuple[Annotated[int, msgspec.Meta(ge=1, le=100)], ...] | UnsetType = UNSET

    @property
    def slot(self) -> tuple[str, str]:
        """The unit and the window; a subject can have only one budget with both."""
        return self.unit, self.window


def parse_budget(text: str) -> BudgetTerms:
    """Returns the terms written as a text, for instance "50/month".

    Raises:
        BadRequest: it has no valid form; the message has examples.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None or found[1].count(".") > 1 or not found[1].strip("."):
        raise _make_error(f"{text[:100]!r} is not a budget. Write an amount and a window, {_EXAMPLES}.")
    unit = (found[3] or "usd").lower()
    window = found[4].lower()
    amount = Decimal(found[1]) * _FACTORS[found[2].lower()]
    terms = BudgetTerms(
        amount=amount,
        unit="usd" if unit == "usd" else "tokens" if unit.startswith("token") else "requests",
        window=_SHORT_WINDOWS.get(window, window),
    )
    return validate_budget(terms)


def validate_budget(terms: BudgetTerms) -> BudgetTerms:
    """Returns the terms in their normal form.

    Raises:
        BadRequest: they make no sense; the message says what to write.
    """
    window = _SHORT_WINDOWS.get(terms.window, terms.window)
    if window not in WINDOWS:
        raise _make_error(f"There is no window {window[:100]!r} for a budget. The windows are: {_WINDOW_NAMES}.")
    if not terms.amount.is_finite() or not 0 < terms.amount <= MAX_AMOUNT:
        raise _make_error(
            f"The amount of a budget must be above 0 and at most 10^15. To allow nothing at all, revoke the key;"
            f" to allow everything, leave the budget of a {window} out."
        )
    places = _USD_PLACES if terms.unit == "usd" else 0
    if terms.amount != round(terms.amount, places):
        most = f"at most {places} decimal places" if places else "no fraction"
        raise _make_error(f"The amount of a budget in {terms.unit.upper() if places else terms.unit} must have {most}.")
    if terms.timezone is not UNSET and terms.timezone not in _get_timezones():
        raise _make_error(
            f"There is no time zone {str(terms.timezone)[:100]!r}. Write one like UTC, Europe/Berlin or Asia/Tokyo."
        )
    most_day = {"week": 7, "month": 28}.get(window, 1)
    if not isinstance(terms.first_day, UnsetType) and terms.first_day > most_day:
        raise _make_error(
            "first_day is for the budget of a week, from 1 (Monday) to 7, and for that of a month, from 1 to 28."
        )
    if not isinstance(terms.warn_percents, UnsetType):
        terms = msgspec.structs.replace(terms, warn_percents=tuple(sorted(set(terms.warn_percents))))
    return msgspec.structs.replace(terms, amount=normalize(terms.amount), window=window)


def describe_budget(amount: Decimal, unit: str, window: str) -> str:
    """Returns the terms in the form that `parse_budget` reads, for instance "50/month" or "5000000-tokens/day"."""
    named = "" if unit == "usd" else f"-{unit}"
    return f"{normalize(amount):f}{named}/{window.removeprefix('rolling:')}"


def normalize(amount: Decimal) -> Decimal:
    """Returns the same amount without trailing zeros after the point, and without an exponent."""
    text = f"{amount:f}"
    return Decimal(text.rstrip("0").rstrip(".") if "." in text else text)


@cache
def _get_timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def _make_error(message: str) -> BadRequest:
    return BadRequest(message, param="budgets", code="invalid_parameter")
