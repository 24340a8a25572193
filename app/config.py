"""The gateway's settings: read once from the environment and the two dotenv files, checked, and never changed.

Every setting is a field of `Settings`, declared with its environment name, default and parser. `.env` documents each
of them for the operator. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import io
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dotenv import dotenv_values

ROOT = Path(__file__).resolve().parent.parent

# Callers name all providers together with this word, so no provider may have this name.
ALL_GATEWAYS = "all"

# Of a random key of letters and digits, 16 characters hold 95 bits; shorter ones are mostly words.
LEAST_KEY_CHARACTERS = 16

_QUOTES = "\"'`\u201c\u201d\u2018\u2019"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# A browser's Origin header: a scheme (also of an app, such as tauri://) and a host, without a path.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s,?#@*]+")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class SettingsError(Exception):
    """A setting is missing, malformed or contradicts another; the text names it and says what it may be."""


def _text(name: str, value: str) -> str:
    return value


def _whole_number(least: int, most: int) -> Callable[[str, str], int]:
    def parse(name: str, value: str) -> int:
        # int() raises another error for numbers of thousands of digits; no setting has more than ten.
        if not value.isascii() or not value.isdigit() or len(value) > 10 or not least <= int(value) <= most:
            raise SettingsError(f"{name} is {value!r}; it must be a whole number from {least} to {most}.")
        return int(value)

    return parse


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    # A value above a day is a mistake, most often milliseconds; the comparison also refuses NaN and infinity.
    if not 0 < seconds <= 86_400:
        raise SettingsError(f"{name} is {value!r}; it must be a number of seconds above 0 and at most 86400.")
    return seconds


def _yes_or_no(name: str, value: str) -> bool:
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


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def parse(name: str, value: str) -> str:
        if value not in choices:
            raise SettingsError(f"{name} is {value!r}; it must be one of: {', '.join(choices)}.")
        return value

    return parse


def _http_url(name: str, value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # The port is not a number, or brackets do not match.
        good = False
    if not good or parts.query or parts.fragment or not value.isascii() or not value.isprintable() or " " in value:
        raise SettingsError(f"{name} is {value!r}; it must be an http:// or https:// address without a query.")
    return value.rstrip("/")


def _secret(name: str, value: str) -> str:
    _raise_if_quoted(name, value)
    # Keys are sent in an HTTP header, so characters other than visible ASCII are a copying error.
    if not all("!" <= character <= "~" for character in value):
        raise SettingsError(f"{name} contains a character that a key cannot have; copy the key again.")
    return value


def _gateway_key(name: str, value: str) -> str:
    _secret(name, value)
    if len(value) < LEAST_KEY_CHARACTERS:
        raise SettingsError(
            f"{name} has fewer than {LEAST_KEY_CHARACTERS} characters, so it could be guessed;"
            " use a random one, such as the output of `openssl rand -hex 24`."
        )
    return value


def _raise_if_quoted(name: str, value: str) -> None:
    # Shells and dotenv files remove quotes; `docker --env-file` and the forms of hosting platforms keep them.
    if value[0] in _QUOTES or value[-1] in _QUOTES:
        raise SettingsError(f"{name} begins or ends with a quote; remove the quotes, they are not part of the value.")


def _database_url(name: str, value: str) -> str:
    _raise_if_quoted(name, value)
    scheme, separator, rest = value.partition("://")
    # Heroku sets postgres://, and SQLAlchemy 2.1 takes postgresql:// to mean psycopg 3, so the driver is named.
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
        raise SettingsError(
            f"{name} must begin with postgresql:// or postgres://; the gateway supports PostgreSQL only."
        )
    _check_address(name, rest)
    return f"postgresql+psycopg2://{rest}"


def _check_address(name: str, rest: str) -> None:
    """Checks `user:password@host:port/name?…`. The error texts repeat no part of it, because any could be the password.

    Raises:
        SettingsError: SQLAlchemy would refuse it, or take a part of the password for the host.
    """
    path = rest.partition("?")[0]
    authority = path.partition("/")[0]
    # What follows the first ? should be name=value; an @ in the first name belongs to a password with a ? in it.
    if path.count("@") > 1 or "@" in path[len(authority) :] or "@" in rest.partition("?")[2].partition("=")[0]:
        raise SettingsError(
            f"{name} has an unescaped @, / or ? in the user or the password;"
            " write @ as %40, / as %2F, ? as %3F and % as %25 there."
        )
    # An IPv6 address is in brackets, after which only the port has a colon.
    host, _, port = authority.rpartition("@")[2].rpartition("]")[2].partition(":")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535):
        raise SettingsError(
            f"{name} has a port that is not a number from 1 to 65535. It must be like"
            " postgresql://user:password@host:5432/name, with @ / ? % in the password written as %40 %2F %3F %25."
        )
    if not rest.isprintable() or " " in rest:
        raise SettingsError(f"{name} contains a space or a control character; copy it again, or write a space as %20.")


def _path(name: str, value: str) -> Path:
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise SettingsError(f"{name} is {value!r}; this user does not exist; write the path without `~`.") from None
    return path if path.is_absolute() else ROOT / path


def _listen_address(name: str, value: str) -> str:
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


def _networks(name: str, value: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
    except ValueError as error:
        raise SettingsError(
            f"{name} is {value!r}; it must be IP addresses or networks with commas between, such as 127.0.0.1,"
            f" 10.0.0.0/8 ({error})."
        ) from None


def _origins(name: str, value: str) -> frozenset[str]:
    if value in {"*", "none"}:
        return frozenset({"*"} if value == "*" else ())
    origins = [part.strip().lower().removesuffix("/") for part in value.split(",") if part.strip()]
    if not origins or not all(_ORIGIN.fullmatch(origin) for origin in origins):
        raise SettingsError(
            f"{name} is {value!r}; it must be * for all, none, or origins such as https://app.example.com with commas"
            " between, without a path."
        )
    # Browsers leave the default port out.
    return frozenset(origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], "/")) for origin in origins)


def _setting(name: str, default: str | None, parse: Callable[[str, str], Any]) -> Any:
    return field(metadata={"name": name, "default": default, "parse": parse})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, parsed. A field is None where the setting has no default and is not set."""

    fireworks_api_key: str | None = _setting("FIREWORKS_API_KEY", None, _secret)
    fireworks_base_url: str = _setting("FIREWORKS_BASE_URL", "https://api.fireworks.ai/inference/v1", _http_url)
    featherless_api_key: str | None = _setting("FEATHERLESS_API_KEY", None, _secret)
    featherless_base_url: str = _setting("FEATHERLESS_BASE_URL", "https://api.featherless.ai/v1", _http_url)
    deepinfra_api_key: str | None = _setting("DEEPINFRA_API_KEY", None, _secret)
    deepinfra_base_url: str = _setting("DEEPINFRA_BASE_URL", "https://api.deepinfra.com/v1/openai", _http_url)
    chutes_api_key: str | None = _setting("CHUTES_API_KEY", None, _secret)
    chutes_base_url: str = _setting("CHUTES_BASE_URL", "https://llm.chutes.ai/v1", _http_url)

    database_url: str | None = _setting("DATABASE_URL", None, _database_url)
    gateway_api_key: str | None = _setting("GATEWAY_API_KEY", None, _gateway_key)
    metrics_token: str | None = _setting("METRICS_TOKEN", None, _secret)
    host: str = _setting("HOST", "0.0.0.0", _listen_address)  # noqa: S104
    port: int = _setting("PORT", "8000", _whole_number(1, 65_535))
    web_concurrency: int = _setting("WEB_CONCURRENCY", "2", _whole_number(1, 256))
    trusted_proxies: tuple[Network, ...] = _setting("TRUSTED_PROXIES", "", _networks)
    cors_origins: frozenset[str] = _setting("CORS_ORIGINS", "*", _origins)
    public_stats: bool = _setting("PUBLIC_STATS", "false", _yes_or_no)
    price_file: Path | None = _setting("PRICE_FILE", None, _path)

    journal_dir: Path = _setting("JOURNAL_DIR", "var/journal", _path)
    journal_full: str = _setting("JOURNAL_FULL", "refuse", _one_of("refuse", "serve"))
    retention_days: int = _setting("RETENTION_DAYS", "90", _whole_number(1, 36_500))

    max_body_bytes: int = _setting("MAX_BODY_BYTES", "20971520", _whole_number(1024, 1 << 30))
    max_live_requests: int = _setting("MAX_LIVE_REQUESTS", "4000", _whole_number(1, 100_000))
    max_refusals_per_second: int = _setting("MAX_REFUSALS_PER_SECOND", "20", _whole_number(1, 1_000_000))

    upstream_connect_timeout_s: float = _setting("UPSTREAM_CONNECT_TIMEOUT", "5", _seconds)
    upstream_first_byte_timeout_s: float = _setting("UPSTREAM_FIRST_BYTE_TIMEOUT", "120", _seconds)
    upstream_idle_timeout_s: float = _setting("UPSTREAM_IDLE_TIMEOUT", "60", _seconds)
    upstream_total_timeout_s: float = _setting("UPSTREAM_TOTAL_TIMEOUT", "900", _seconds)
    upstream_retries: int = _setting("UPSTREAM_RETRIES", "2", _whole_number(0, 10))
    stream_heartbeat_s: float = _setting("STREAM_HEARTBEAT", "15", _seconds)
    client_send_timeout_s: float = _setting("CLIENT_SEND_TIMEOUT", "30", _seconds)
    client_body_timeout_s: float = _setting("CLIENT_BODY_TIMEOUT", "120", _seconds)

    graceful_timeout_s: float = _setting("GRACEFUL_TIMEOUT", "25", _seconds)
    drain_timeout_s: float = _setting("DRAIN_TIMEOUT", "20", _seconds)


def setting_names() -> list[str]:
    """Returns the environment names of all settings, in the order of `Settings`."""
    return [row.metadata["name"] for row in fields(Settings)]


def provider_names() -> list[str]:
    """Returns the names of the providers, in the order of `Settings`: `x` has the fields `x_api_key`, `x_base_url`."""
    names = [row.name for row in fields(Settings)]
    bases = [name.removesuffix("_api_key") for name in names if name.endswith("_api_key")]
    return [base for base in bases if f"{base}_base_url" in names]


def get_secrets(settings: Settings) -> list[str]:
    """Returns the secrets that are set: all keys, and the database's password in each form in which it may appear."""
    keys = [getattr(settings, row.name) for row in fields(Settings) if row.metadata["parse"] is _secret]
    password = None
    if settings.database_url is not None:
        with suppress(ValueError):  # Brackets in the address that do not match; the database's own check reports it.
            password = urlsplit(settings.database_url).password
    return [secret for secret in (*keys, password, unquote(password or "")) if secret]


def read_environment(root: Path = ROOT) -> dict[str, str]:
    """Returns name → text from the process environment, then `.env.local`, then `.env`; empty counts as unset.

    Raises:
        SettingsError: a file cannot be read.
    """
    sources: list[Mapping[str, str | None]] = [
        read_env_file(root / ".env"),
        read_env_file(root / ".env.local"),
        os.environ,
    ]
    return {name: value for source in sources for name, value in source.items() if value and value.strip()}


def read_env_file(path: Path) -> dict[str, str | None]:
    """Returns name → text from a dotenv file, {} if there is none.

    Raises:
        SettingsError: it cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text("utf-8-sig")  # Some editors on Windows begin a file with a byte-order mark.
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}); make it a file that this user may read."
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 is valid UTF-8 where it holds only ASCII: each second byte is 0.
    if "\0" in text:
        raise SettingsError(f"{path} is not in UTF-8; save it again with the encoding UTF-8 (not UTF-16 or Unicode).")
    return dotenv_values(stream=io.StringIO(text))


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Parses and checks all settings.

    Args:
        environment: name → text; None reads the process environment and the dotenv files.

    Raises:
        SettingsError: a setting is malformed or two contradict each other.
    """
    values = read_environment() if environment is None else environment
    settings = Settings(
        **{row.name: _parsed(row, values.get(row.metadata["name"], "").strip()) for row in fields(Settings)}
    )
    _check_together(settings)
    return settings


def _parsed(row: Field[Any], value: str) -> Any:
    name, default, parse = row.metadata["name"], row.metadata["default"], row.metadata["parse"]
    text = value or default
    return None if text is None else parse(name, text)


def _check_together(settings: Settings) -> None:
    if settings.upstream_first_byte_timeout_s > settings.upstream_total_timeout_s:
        raise SettingsError(
            "UPSTREAM_FIRST_BYTE_TIMEOUT is above UPSTREAM_TOTAL_TIMEOUT, so it would have no effect; lower it."
        )
    # gunicorn kills the worker after the graceful timeout, rounded down to whole seconds, and a killed stream ends
    # without an error event. Waiting requests notice the end of the drain within a second.
    if settings.drain_timeout_s + 1 > int(settings.graceful_timeout_s):
        raise SettingsError(
            "DRAIN_TIMEOUT must be at least one second below GRACEFUL_TIMEOUT, or running requests would be killed."
        )
