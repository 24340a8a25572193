"""Amounts as whole numbers: of 10⁻¹² USD, of which every list price is a multiple, or of tokens or requests."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Literal

Unit = Literal["usd", "tokens", "requests"]

_USD_DIGITS = 12
# More digits than numeric(30,12) has: the default context would round to 28.
_EXACT = Context(prec=60)


def parse_amount(text: str, unit: Unit) -> int:
    """Returns the whole number that stands for a decimal amount, as the database writes it.

    Args:
        text: for instance "50.250000000000".
        unit: its unit; a fraction of a token or a request, which no amount has, is cut off.
    """
    digits = _USD_DIGITS if unit == "usd" else 0
    return int(_EXACT.scaleb(Decimal(text), digits))


def format_amount(number: int, unit: Unit) -> str:
    """Returns the decimal amount that a whole number stands for, as the database reads it."""
    if unit != "usd":
        return str(number)
    if number < 0:
        return f"-{format_amount(-number, unit)}"
    digits = str(number).zfill(_USD_DIGITS + 1)  # Half the time of a format with a width.
    return digits[:-_USD_DIGITS] + "." + digits[-_USD_DIGITS:]


def describe_amount(number: int, unit: Unit) -> str:
    """Returns an amount in readable form, for instance "0.18 USD", "5,000 tokens" or "1 request".

    USD are rounded to cents, or to two significant digits below a cent.
    """
    if unit == "usd":
        usd = number / 10**_USD_DIGITS
        return f"{usd:,.2f} USD" if number == 0 or abs(usd) >= 0.01 else f"{usd:.2g} USD"
    return f"{number:,} {unit if number != 1 else unit.removesuffix('s')}"
