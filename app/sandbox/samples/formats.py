"""Texts of the formats that JSON Schema and pydantic name, such as `date` and `uuid4`, and checks for them."""

import base64
import ipaddress
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from urllib.parse import urlsplit

_DAY = date(2026, 1, 15)
_ID = uuid.UUID("5a4d0b0c-0000-4000-8000-000000000000")
# RFC 6901 and RFC 3339, appendix A.
_POINTER = r"(/([^~/]|~[01])*)*"
_DURATION = r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?)"
_HOST = r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
# Longer addresses and dates are of no format; the expressions above are for short texts.
_MAX_CHARS = 2_100


def make_formatted(name: str, variant: int, low: int) -> str | None:
    """Returns a text of a format, or None for an unknown format, which allows every text.

    Args:
        name: the format.
        variant: gives another text for each number, for at least 200.
        low: the shortest length, in characters; addresses and names are padded to it.
    """
    make = _MAKERS.get(name)
    if make is None:
        return None
    text = make(variant)
    filler = "x" * (low - len(text))
    if filler and name in _GROWING:
        start = _GROWING[name]
        at = text.index(start) + len(start)
        return text[:at] + filler + text[at:]
    return text


def has_format(text: str, name: str) -> bool:
    """Returns whether a text has a format; True for an unknown format."""
    check = _CHECKS.get(name)
    if check is None or name not in _MAKERS:
        return True
    try:
        return len(text) <= _MAX_CHARS and bool(check(text))
    except ValueError:
        return False


def _make_uuid(version: int) -> Callable[[int], str]:
    # The 13th of 32 digits is the version.
    start = _ID.int & ~(0xF << 76) | version << 76
    return lambda variant: str(uuid.UUID(int=start + variant))


def _make_day(variant: int) -> str:
    return str(_DAY - timedelta(days=variant))


def _make_time(variant: int) -> str:
    return f"12:{variant // 60 % 60:02}:{variant % 60:02}Z"


def _with_number(text: str, after: str = "") -> Callable[[int], str]:
    """Returns a maker of `text`, the number of the variant if it is not 0, and `after`."""
    return lambda variant: text + (str(variant) if variant else "") + after


def _make_base64(variant: int) -> str:
    return base64.b64encode(_with_number("sandbox")(variant).encode()).decode()


_MAKERS: dict[str, Callable[[int], str]] = {
    "date": _make_day,
    "date-time": lambda variant: _make_day(variant) + "T12:00:00Z",
    "time": _make_time,
    "duration": lambda variant: f"P{variant + 1}D",
    "email": _with_number("sandbox", "@example.com"),
    "idn-email": _with_number("sandbox", "@example.com"),
    "name-email": _with_number("sandbox", "@example.com"),
    "hostname": _with_number("sandbox", ".example.com"),
    "idn-hostname": _with_number("sandbox", ".example.com"),
    "uri": _with_number("https://example.com/sandbox"),
    "uri-reference": _with_number("https://example.com/sandbox"),
    "iri": _with_number("https://example.com/sandbox"),
    "iri-reference": _with_number("https://example.com/sandbox"),
    "url": _with_number("https://example.com/sandbox"),
    "multi-host-uri": _with_number("https://example.com/sandbox"),
    "uri-template": _with_number("https://example.com/{sandbox", "}"),
    "ipv4": lambda variant: str(ipaddress.IPv4Address("192.0.2.1") + variant),
    "ipvanyaddress": lambda variant: str(ipaddress.IPv4Address("192.0.2.1") + variant),
    "ipv6": lambda variant: str(ipaddress.IPv6Address("2001:db8::1") + variant),
    "ipv4network": lambda variant: f"192.0.{variant}.0/24",
    "ipvanynetwork": lambda variant: f"192.0.{variant}.0/24",
    "ipv6network": lambda variant: f"2001:db8:{variant + 1:x}::/48",
    "ipv4interface": lambda variant: f"192.0.{variant}.1/24",
    "ipvanyinterface": lambda variant: f"192.0.{variant}.1/24",
    "ipv6interface": lambda variant: f"2001:db8:{variant + 1:x}::1/48",
    "uuid": _make_uuid(4),
    **{f"uuid{version}": _make_uuid(version) for version in range(1, 9)},
    "json-pointer": _with_number("/sandbox"),
    "relative-json-pointer": _with_number("0/sandbox"),
    "regex": _with_number("^sandbox", "$"),
    "base64": _make_base64,
    "base64url": _make_base64,
    # pydantic requires that these exist.
    "file-path": lambda variant: "/etc/hosts",
    "directory-path": lambda variant: "/",
}
# Format → the characters after which its text can be padded.
_GROWING = {
    "email": "sandbox",
    "idn-email": "sandbox",
    "uri": "/sandbox",
    "uri-reference": "/sandbox",
    "iri": "/sandbox",
    "iri-reference": "/sandbox",
    "url": "/sandbox",
    "multi-host-uri": "/sandbox",
    "json-pointer": "/sandbox",
    "relative-json-pointer": "/sandbox",
    "regex": "sandbox",
}


def _fits(pattern: str, flags: int = 0) -> Callable[[str], object]:
    return re.compile(pattern, flags).fullmatch


def _is_moment(text: str) -> bool:
    return "T" in text.upper() and datetime.fromisoformat(text).tzinfo is not None


def _is_uuid(text: str) -> bool:
    return str(uuid.UUID(text)) == text.lower()


def _is_uuid_of(version: int) -> Callable[[str], bool]:
    return lambda text: uuid.UUID(text).version == version


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    return bool(parts.scheme) and not re.search(r"\s", text)


_CHECKS: dict[str, Callable[[str], object]] = {
    "date": lambda text: len(text) == 10 and date.fromisoformat(text),
    "date-time": _is_moment,
    "time": lambda text: time.fromisoformat(text).tzinfo,
    "duration": _fits(_DURATION),
    **dict.fromkeys(("email", "idn-email"), _fits(r"[^@\s]+@[^@\s]+")),
    "hostname": _fits(_HOST, re.IGNORECASE),
    **dict.fromkeys(("uri", "iri", "url", "multi-host-uri"), _is_address),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "ipvanyaddress": ipaddress.ip_address,
    "ipv4network": ipaddress.IPv4Network,
    "ipv6network": ipaddress.IPv6Network,
    "ipvanynetwork": ipaddress.ip_network,
    "ipv4interface": ipaddress.IPv4Interface,
    "ipv6interface": ipaddress.IPv6Interface,
    "ipvanyinterface": ipaddress.ip_interface,
    "uuid": _is_uuid,
    **{f"uuid{version}": _is_uuid_of(version) for version in range(1, 9)},
    "json-pointer": _fits(_POINTER),
    "relative-json-pointer": _fits(r"(0|[1-9]\d*)(#|" + _POINTER + ")"),
    "regex": re.compile,
    "base64": lambda text: base64.b64decode(text, validate=True) is not None,
}
