"""Numbers, times and money in readable form. Unknown values are a dash, never a zero."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from markupsafe import Markup

UNKNOWN = "–"

_SCALES: tuple[tuple[int, str], ...] = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


def format_count(value: int | None) -> str:
    """Returns a whole number with separators, such as 12,345."""
    return UNKNOWN if value is None else f"{value:,}"


def format_short(value: float | None) -> str:
    """Returns a number in about four characters, such as 1.2M."""
    if value is None:
        return UNKNOWN
    for size, letter in _SCALES:
        # A value that would be rounded up to 1,000 of a letter is 1 of the next.
        if abs(value) >= size * 0.9995:
            return _trim(float(value) / size) + letter
    return _trim(float(value))


def _trim(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.{1 if abs(value) >= 9.995 else 2}f}".rstrip("0").rstrip(".")


def format_usd(value: Decimal | float | None) -> str:
    """Returns an amount with cents or, below a dollar, with three significant digits."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "$0"
    sign, size = ("-" if value < 0 else ""), abs(Decimal(str(value)))
    if size >= 1:
        return f"{sign}${size:,.2f}"
    digits = f"{size:.{min(15, 2 - size.adjusted())}f}".rstrip("0")
    return f"{sign}${digits.ljust(4, '0')}"


def format_ms(value: float | None) -> str:
    """Returns a duration in milliseconds, seconds or minutes."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 ms"
    if value < 999.5:
        return f"{value:.0f} ms" if value >= 9.95 else f"{value:.1f} ms"
    if value < 119_500:
        return f"{value / 1000:.1f} s" if value < 99_950 else f"{value / 1000:.0f} s"
    minutes, seconds = divmod(round(value / 1000), 60)
    return f"{minutes} min {seconds} s"


def format_seconds(value: float | None) -> str:
    """Returns a duration given in seconds."""
    if value is None:
        return UNKNOWN
    if value >= 172_800:
        return f"{value / 86_400:.0f} days"
    if value >= 7_200:
        return f"{value / 3_600:.0f} h"
    return format_ms(value * 1000)


def format_share(part: float, whole: float) -> str:
    """Returns a part of a whole in percent; a part that is not zero is never shown as 0 %."""
    if not whole:
        return UNKNOWN
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.1f} %".replace(".0 %", " %")


def format_bytes(value: int | None) -> str:
    """Returns a size in bytes, kB or MB."""
    if value is None:
        return UNKNOWN
    return f"{value} B" if value < 1000 else f"{value / 1000:.1f} kB" if value < 10**6 else f"{value / 10**6:.1f} MB"


def format_time(value: datetime | None, form: str = "full") -> str | Markup:
    """Returns a UTC time as an element; the script rewrites its text in the browser's time zone.

    Args:
        value: the time.
        form: "full", "clock" for the time of day only, or "day" for a UTC day, which is never rewritten.
    """
    if value is None:
        return UNKNOWN
    utc = value.astimezone(UTC)
    texts = {"full": f"{utc:%Y-%m-%d %H:%M:%S} UTC", "clock": f"{utc:%H:%M} UTC", "day": f"{utc:%b %d}"}
    moment = f"{utc:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
    local = "" if form == "day" else f' data-local="{form}"'
    # No part of it needs escaping, and a page has hundreds of them.
    return Markup(f'<time datetime="{moment}" title="{texts["full"]}"{local}>{texts[form]}</time>')


def format_day(value: date | None) -> str:
    """Returns a UTC day."""
    return UNKNOWN if value is None else value.isoformat()


def shorten_model(id: str | None) -> str:
    """Returns the usual name of a model: the last part of an id with a long path, such as `accounts/a/models/m`."""
    return UNKNOWN if not id else id.rpartition("/")[2] if id.count("/") > 2 else id


FILTERS: dict[str, Callable[..., Any]] = {
    "count": format_count,
    "short": format_short,
    "usd": format_usd,
    "ms": format_ms,
    "seconds": format_seconds,
    "share": format_share,
    "bytes": format_bytes,
    "model": shorten_model,
    "moment": format_time,
    "day": format_day,
}
