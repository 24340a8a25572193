"""Parsers for the texts of settings: one for each kind of value, which refuses invalid texts.

A parser takes the setting's name, for the error, and its text.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from app.database_session import move_hosts, split_hosts

ROOT = Path(__file__).resolve().parent.parent

# 16 random letters and digits have 95 bits; shorter keys are mostly words.
LEAST_KEY_CHARACTERS = 16

_QUOTES = "\"'`\u201c\u201d\u2018\u2019"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# A browser's Origin header: a scheme (possibly of an app, such as tauri://) and a host, without a path.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,?#@*]+")
# Two numbers of at most three digits, with decimals.
_BAND = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3})?) ?[-–] ?([0-9]{1,3}(?:\.[0-9]{1,3})?) ?%?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class SettingsError(Exception):
    """A setting is missing, malformed or contradicts another; the text names it and its possible values."""


def whole_number(least: int, most: int) -> Callable[[str, str], int]:
    """Returns a parser of whole numbers from `least` to `most`."""

    def parse(name: str, value: str) -> int:
        # int() raises another error for numbers of thousands of digits; no setting has more than ten.
        if not value.isascii() or not value.isdigit() or len(value) > 10 or not least <= int(value) <= most:
            raise SettingsError(f"{name} is {value!r}; it must be a whole number from {least} to {most}.")
        return int(value)

    return parse


def parse_seconds(name: str, value: str) -> float:
    """Returns a number of seconds, above 0 and at most a day."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    # A value above a day is a mistake, most often milliseconds; the comparison also refuses NaN and infinity.
    if not 0 < seconds <= 86_400:
        raise SettingsError(f"{name} is {value!r}; it must be a number of seconds above 0 and at most 86400.")
    return seconds


def parse_yes_or_no(name: str, value: str) -> bool:
    """Returns whether the text means yes: `true` or `false`, and the usual words for them."""
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if value.lower() not in words:
        raise SettingsError(f"{name} is {value!r}; it must be true or false.")
    return words[value.lower()]


def one_of(*choices: str) -> Callable[[str, str], str]:
    """Returns a parser that accepts only `choices`."""

    def parse(name: str, value: str) -> str:
        if value not in choices:
            raise SettingsError(f"{name} is {value!r}; it must be one of: {', '.join(choices)}.")
        return value

    return parse


def parse_percent_band(name: str, value: str) -> tuple[Decimal, Decimal]:
    """Returns the two shares of a band in percent, such as 0.99 and 1.01 for `99-101`."""
    if (match := _BAND.fullmatch(value)) is not None:
        least, most = Decimal(match[1]) / 100, Decimal(match[2]) / 100
        if least <= 1 <= most <= 2:
            return least, most
    raise SettingsError(f"{name} is {value!r}; it must be two numbers of percent around 100, such as 99-101.")


def parse_gateway_name(name: str, value: str) -> str:
    """Returns the name of a gateway; it is sent in a header that uses commas and equals signs itself."""
    if not _NAME.fullmatch(value):
        raise SettingsError(
            f"{name} is {value!r}; it must have 1 to 64 letters, digits, dots, underscores and hyphens."
        )
    return value


def parse_http_url(name: str, value: str) -> str:
    """Returns an http:// or https:// address without a slash at its end."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # The port is not a number, or brackets do not match.
        good = False
    if not good or parts.query or parts.fragment or not value.isascii() or not value.isprintable() or " " in value:
        raise SettingsError(f"{name} is {value!r}; it must be an http:// or https:// address without a query.")
    return value.rstrip("/")


def parse_webhook_url(name: str, value: str) -> str:
    """Returns an http:// or https:// address, possibly with a query. No error repeats it: it may hold a token."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # The port is not a number, or brackets do not match.
        good = False
    if not good or "@" in parts.netloc or parts.fragment or not all("!" <= character <= "~" for character in value):
        raise SettingsError(
            f"{name} must be an http:// or https:// address in ASCII, without a user, a password and a fragment (#)."
        )
    return value


def parse_webhook_secret(name: str, value: str) -> str:
    """Returns a secret of Standard Webhooks: 24 to 64 bytes in base64, possibly after `whsec_`. No error repeats it."""
    try:
        secret = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        secret = b""
    if not 24 <= len(secret) <= 64:
        raise SettingsError(
            f"{name} must be 24 to 64 random bytes in base64, such as the output of `openssl rand -base64 32`."
        )
    return value


def parse_secret(name: str, value: str) -> str:
    """Returns a key, which is sent in an HTTP header."""
    _raise_if_quoted(name, value)
    # Keys are sent in an HTTP header, so characters other than visible ASCII are a copying error.
    if not all("!" <= character <= "~" for character in value):
        raise SettingsError(f"{name} contains a character that a key cannot have; copy the key again.")
    return value


def parse_gateway_key(name: str, value: str) -> str:
    """Returns a key to this gateway that an operator chose; it must be too long to be guessed."""
    parse_secret(name, value)
    if len(value) < LEAST_KEY_CHARACTERS:
        raise SettingsError(
            f"{name} has fewer than {LEAST_KEY_CHARACTERS} characters, so it could be guessed;"
            " use a random one, such as the output of `openssl rand -hex 24`."
        )
    return value


def parse_secrets(name: str, value: str) -> tuple[str, ...]:
    """Returns keys from a list with commas, which no key contains; the first one is used first."""
    return _parse_list(name, value, parse_secret)


def parse_gateway_keys(name: str, value: str) -> tuple[str, ...]:
    """Returns keys to this gateway from a list with commas; all of them work."""
    return _parse_list(name, value, parse_gateway_key)


def _parse_list(name: str, value: str, parse: Callable[[str, str], str]) -> tuple[str, ...]:
    parts = [part.strip() for part in value.split(",")]
    if value and not all(parts):
        raise SettingsError(
            f"{name} has a comma without a key before and after it; write one key, or several like a,b."
        )
    return tuple(dict.fromkeys(parse(name, part) for part in parts if part))


def _raise_if_quoted(name: str, value: str) -> None:
    # Shells and dotenv files remove quotes; `docker --env-file` and the forms of hosting platforms keep them.
    if value[0] in _QUOTES or value[-1] in _QUOTES:
        raise SettingsError(f"{name} begins or ends with a quote; remove the quotes, they are not part of the value.")


def parse_database_url(name: str, value: str) -> str:
    """Returns the address of a PostgreSQL database with the driver psycopg2. The password is never in an error."""
    _raise_if_quoted(name, value)
    scheme, separator, rest = value.partition("://")
    # Heroku sets postgres://, and for SQLAlchemy 2.1 postgresql:// means psycopg 3, so the driver is named.
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
        raise SettingsError(
            f"{name} must begin with postgresql:// or postgres://; the gateway supports PostgreSQL only."
        )
    _raise_if_bad_address(name, rest)
    return f"postgresql+psycopg2://{move_hosts(rest)}"


def _raise_if_bad_address(name: str, rest: str) -> None:
    """Checks `user:password@host:port/name?…`. Error texts repeat no part of it; any part could be the password.

    Raises:
        SettingsError: SQLAlchemy would refuse it, or mistake part of the password for the host.
    """
    path = rest.partition("?")[0]
    authority = path.partition("/")[0]
    # The first ? should be followed by name=value; an @ in the first name belongs to a password that contains a ?.
    if path.count("@") > 1 or "@" in path[len(authority) :] or "@" in rest.partition("?")[2].partition("=")[0]:
        raise SettingsError(
            f"{name} has an unescaped @, / or ? in the user or the password;"
            " write @ as %40, / as %2F, ? as %3F and % as %25 there."
        )
    ports = [port for _, port in split_hosts(authority.rpartition("@")[2])]
    if any(
        port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535)
        for port in ports
    ):
        raise SettingsError(
            f"{name} has a port that is not a number from 1 to 65535. It must be like"
            " postgresql://user:password@host:5432/name, with @ / ? % in the password written as %40 %2F %3F %25."
        )
    if not rest.isprintable() or " " in rest:
        raise SettingsError(f"{name} contains a space or a control character; copy it again, or write a space as %20.")


def parse_path(name: str, value: str) -> Path:
    """Returns a path; a relative one is below the project's folder."""
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise SettingsError(f"{name} is {value!r}; this user does not exist; write the path without `~`.") from None
    return path if path.is_absolute() else ROOT / path


def parse_listen_address(name: str, value: str) -> str:
    """Returns an IP address to listen on."""
    address = value.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        if value == "localhost":
            return "127.0.0.1"
    raise SettingsError(
        f"{name} is {value!r}; it must be the IP address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 or ::"
        " for all. Some shells set it to another value; then set it in the environment of this command."
    )


def parse_networks(name: str, value: str) -> tuple[Network, ...]:
    """Returns addresses and networks, separated by commas."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(
            f"{name} is {value!r}; it must be IP addresses or networks with commas between, such as 127.0.0.1,"
            f" 10.0.0.0/8 ({error})."
        ) from None


def parse_origins(name: str, value: str) -> frozenset[str]:
    """Returns the origins of web sites, separated by commas, or `*`."""
    if value in {"*", "none"}:
        return frozenset({"*"} if value == "*" else ())
    origins = [part.strip().lower().removesuffix("/") for part in value.split(",") if part.strip()]
    if not origins or not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise SettingsError(
            f"{name} is {value!r}; it must be * for all, none, or origins such as https://app.example.com with commas"
            " between, without a path."
        )
    # Browsers leave out the default port.
    return frozenset(origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], "/")) for origin in origins)
