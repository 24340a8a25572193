"""The gateway's settings: read once from the environment and the two dotenv files, checked, and never changed.

Every setting is a field of `Settings`, declared with its environment name, default and parser. `.env` documents each
of them for the operator. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, unquote_plus

from app.env_file import read_env_file
from app.setting_values import (
    ROOT as ROOT,
)
from app.setting_values import (
    Network,
    one_of,
    parse_database_url,
    parse_gateway_key,
    parse_gateway_keys,
    parse_gateway_name,
    parse_http_url,
    parse_listen_address,
    parse_networks,
    parse_origins,
    parse_path,
    parse_percent_band,
    parse_seconds,
    parse_secrets,
    parse_webhook_secret,
    parse_webhook_url,
    parse_yes_or_no,
    whole_number,
)
from app.setting_values import (
    SettingsError as SettingsError,
)

# Callers use this word for all providers together, so no provider may have this name.
ALL_GATEWAYS = "all"

# The longest name or id that callers and providers may choose: of a model, of a request, in a query. Records keep this
# much of it: an entry of a PostgreSQL index, which holds a name, has at most 2.7 kB.
MAX_NAME_CHARACTERS = 300

# How long keys work after the last answer of the database, in seconds. Most outages of PostgreSQL end within minutes.
# If one lasts much longer, revoked keys must stop working too.
KEYS_GRACE_S = 600.0

# The parameters of libpq that are passwords.
PASSWORD_NAMES = ("password", "sslpassword")

_SECRET_PARSERS = (parse_secrets, parse_gateway_key, parse_gateway_keys, parse_webhook_secret)


Source = Literal["environment", ".env.local", ".env"]


def _setting(name: str, default: str | None, parse: Callable[[str, str], Any]) -> Any:
    return field(metadata={"name": name, "default": default, "parse": parse})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, parsed. A setting without a default that is not set is None, or () for keys."""

    fireworks_api_key: tuple[str, ...] = _setting("FIREWORKS_API_KEY", "", parse_secrets)
    fireworks_base_url: str = _setting("FIREWORKS_BASE_URL", "https://api.fireworks.ai/inference/v1", parse_http_url)
    fireworks_billing_key: tuple[str, ...] = _setting("FIREWORKS_BILLING_KEY", "", parse_secrets)
    fireworks_control_url: str | None = _setting("FIREWORKS_CONTROL_URL", None, parse_http_url)
    featherless_api_key: tuple[str, ...] = _setting("FEATHERLESS_API_KEY", "", parse_secrets)
    featherless_base_url: str = _setting("FEATHERLESS_BASE_URL", "https://api.featherless.ai/v1", parse_http_url)
    deepinfra_api_key: tuple[str, ...] = _setting("DEEPINFRA_API_KEY", "", parse_secrets)
    deepinfra_base_url: str = _setting("DEEPINFRA_BASE_URL", "https://api.deepinfra.com/v1/openai", parse_http_url)
    chutes_api_key: tuple[str, ...] = _setting("CHUTES_API_KEY", "", parse_secrets)
    chutes_base_url: str = _setting("CHUTES_BASE_URL", "https://llm.chutes.ai/v1", parse_http_url)

    database_url: str | None = _setting("DATABASE_URL", None, parse_database_url)
    database_direct_url: str | None = _setting("DATABASE_DIRECT_URL", None, parse_database_url)
    gateway_api_key: tuple[str, ...] = _setting("GATEWAY_API_KEY", "", parse_gateway_keys)
    metrics_token: str | None = _setting("METRICS_TOKEN", None, parse_gateway_key)
    host: str = _setting("HOST", "0.0.0.0", parse_listen_address)  # noqa: S104
    port: int = _setting("PORT", "8000", whole_number(1, 65_535))
    web_concurrency: int = _setting("WEB_CONCURRENCY", "2", whole_number(1, 256))
    trusted_proxies: tuple[Network, ...] = _setting("TRUSTED_PROXIES", "", parse_networks)
    cors_origins: frozenset[str] = _setting("CORS_ORIGINS", "*", parse_origins)
    public_stats: bool = _setting("PUBLIC_STATS", "false", parse_yes_or_no)
    price_file: Path | None = _setting("PRICE_FILE", None, parse_path)
    gateway_name: str | None = _setting("GATEWAY_NAME", None, parse_gateway_name)
    reconcile_band: tuple[Decimal, Decimal] = _setting("RECONCILE_BAND", "99-101", parse_percent_band)

    journal_dir: Path = _setting("JOURNAL_DIR", "var/journal", parse_path)
    journal_full: str = _setting("JOURNAL_FULL", "refuse", one_of("refuse", "serve"))
    budget_outage: str = _setting("BUDGET_OUTAGE", "refuse", one_of("refuse", "serve"))
    rate_outage: str = _setting("RATE_OUTAGE", "serve", one_of("refuse", "serve"))
    budget_status: str = _setting("BUDGET_STATUS", "402", one_of("402", "429"))
    limits_webhook: str | None = _setting("LIMITS_WEBHOOK", None, parse_webhook_url)
    limits_webhook_secret: str | None = _setting("LIMITS_WEBHOOK_SECRET", None, parse_webhook_secret)
    routing_sort: Literal["price", "latency", "throughput"] = _setting(
        "ROUTING_SORT", "price", one_of("price", "latency", "throughput")
    )
    routing_equivalents: bool = _setting("ROUTING_EQUIVALENTS", "false", parse_yes_or_no)
    fallback_after_s: float | None = _setting("FALLBACK_AFTER", None, parse_seconds)
    idempotency_hours: int = _setting("IDEMPOTENCY_HOURS", "0", whole_number(0, 720))
    idempotency_rows: int = _setting("IDEMPOTENCY_ROWS", "100000", whole_number(1, 100_000_000))
    idempotency_bytes: int = _setting("IDEMPOTENCY_BYTES", "1073741824", whole_number(1, 1 << 50))
    retention_days: int = _setting("RETENTION_DAYS", "90", whole_number(1, 36_500))

    otlp_endpoint: str | None = _setting("OTEL_EXPORTER_OTLP_ENDPOINT", None, parse_http_url)

    max_body_bytes: int = _setting("MAX_BODY_BYTES", "20971520", whole_number(1024, 1 << 30))
    max_live_requests: int = _setting("MAX_LIVE_REQUESTS", "4000", whole_number(1, 100_000))
    max_refusals_per_second: int = _setting("MAX_REFUSALS_PER_SECOND", "20", whole_number(1, 1_000_000))

    compiled_events: bool = _setting("COMPILED_EVENTS", "true", parse_yes_or_no)

    upstream_connect_timeout_s: float = _setting("UPSTREAM_CONNECT_TIMEOUT", "5", parse_seconds)
    upstream_first_byte_timeout_s: float = _setting("UPSTREAM_FIRST_BYTE_TIMEOUT", "120", parse_seconds)
    upstream_idle_timeout_s: float = _setting("UPSTREAM_IDLE_TIMEOUT", "60", parse_seconds)
    upstream_total_timeout_s: float = _setting("UPSTREAM_TOTAL_TIMEOUT", "900", parse_seconds)
    upstream_retries: int = _setting("UPSTREAM_RETRIES", "2", whole_number(0, 10))
    stream_heartbeat_s: float = _setting("STREAM_HEARTBEAT", "15", parse_seconds)
    client_send_timeout_s: float = _setting("CLIENT_SEND_TIMEOUT", "30", parse_seconds)
    client_body_timeout_s: float = _setting("CLIENT_BODY_TIMEOUT", "120", parse_seconds)

    restart_handover: bool = _setting("RESTART_HANDOVER", "false", parse_yes_or_no)
    graceful_timeout_s: float = _setting("GRACEFUL_TIMEOUT", "25", parse_seconds)
    drain_timeout_s: float = _setting("DRAIN_TIMEOUT", "20", parse_seconds)


def get_direct_url(settings: Settings) -> str | None:
    """Returns the address of PostgreSQL itself, past a pooler: for migrations and other work that needs a session."""
    return settings.database_direct_url or settings.database_url


def setting_names() -> list[str]:
    """Returns the environment names of all settings, in the order of `Settings`."""
    return [row.metadata["name"] for row in fields(Settings)]


def find_misspelt_names(names: Iterable[str]) -> dict[str, str]:
    """Returns name → setting for those of the names that are nearly, but not exactly, those of settings."""
    import difflib  # Imported here, because workers do not need it.

    known = setting_names()
    near = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.88) for name in sorted(set(names) - set(known))}
    return {name: found[0] for name, found in near.items() if found}


def provider_names() -> list[str]:
    """Returns the names of the providers, in the order of `Settings`: `x` has the fields `x_api_key`, `x_base_url`."""
    names = [row.name for row in fields(Settings)]
    bases = [name.removesuffix("_api_key") for name in names if name.endswith("_api_key")]
    return [base for base in bases if f"{base}_base_url" in names]


def is_secret(name: str) -> bool:
    """Returns whether the setting with this environment name is a secret."""
    return any(row.metadata["name"] == name and row.metadata["parse"] in _SECRET_PARSERS for row in fields(Settings))


def get_secrets(settings: Settings) -> list[str]:
    """Returns the secrets that are set: all keys, and the database's password in each form that may appear."""
    values = [getattr(settings, row.name) for row in fields(Settings) if row.metadata["parse"] in _SECRET_PARSERS]
    keys = [key for value in values for key in (value if isinstance(value, tuple) else (value,))]
    addresses = filter(None, (settings.database_url, settings.database_direct_url))
    passwords = [password for address in addresses for password in _find_passwords(address)]
    forms = (*passwords, *map(unquote, passwords), *map(unquote_plus, passwords))
    return [secret for secret in dict.fromkeys((*keys, *forms)) if secret]


def _find_passwords(database_url: str) -> list[str]:
    """Returns the passwords of `scheme://user:password@host/name?password=…`, in their form in the address.

    They are found by hand, because urllib mistakes # and [ in a password for delimiters of other parts.
    """
    address, _, query = database_url.partition("://")[2].partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    named = [value for name, _, value in pairs if unquote(name).lower() in PASSWORD_NAMES]
    return [address.rpartition("@")[0].partition(":")[2], *named]


def read_environment(root: Path = ROOT) -> dict[str, str]:
    """Returns name → text from the process environment, then `.env.local`, then `.env`; empty counts as unset.

    Raises:
        SettingsError: a file cannot be read.
    """
    return {name: value for _, source in _read_all(root) for name, value in source.items() if value and value.strip()}


def read_sources(root: Path = ROOT) -> dict[str, Source]:
    """Returns name → the source of its text in `read_environment`.

    Raises:
        SettingsError: a file cannot be read.
    """
    return {
        name: place for place, source in _read_all(root) for name, value in source.items() if value and value.strip()
    }


def _read_all(root: Path) -> list[tuple[Source, Mapping[str, str | None]]]:
    return [
        (".env", read_env_file(root / ".env")),
        (".env.local", read_env_file(root / ".env.local")),
        ("environment", os.environ),
    ]


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
    _raise_if_contradictory(settings)
    return settings


def _parsed(row: Field[Any], value: str) -> Any:
    name, default, parse = row.metadata["name"], row.metadata["default"], row.metadata["parse"]
    text = value or default
    return None if text is None else parse(name, text)


def _raise_if_contradictory(settings: Settings) -> None:
    if settings.upstream_first_byte_timeout_s > settings.upstream_total_timeout_s:
        raise SettingsError(
            "UPSTREAM_FIRST_BYTE_TIMEOUT is above UPSTREAM_TOTAL_TIMEOUT, so it would have no effect; lower it."
        )
    if settings.fallback_after_s is not None and settings.fallback_after_s >= settings.upstream_first_byte_timeout_s:
        raise SettingsError(
            "FALLBACK_AFTER is not below UPSTREAM_FIRST_BYTE_TIMEOUT, so it would have no effect; lower it."
        )
    if settings.limits_webhook is not None and settings.limits_webhook_secret is None:
        raise SettingsError(
            "LIMITS_WEBHOOK is set and LIMITS_WEBHOOK_SECRET is not, so nobody could tell whether a message is the"
            " gateway's; set it to the output of `openssl rand -base64 32`, here and at the receiver."
        )
    # gunicorn kills the worker after the graceful timeout, rounded down to whole seconds, and a killed stream ends
    # without an error event. Waiting requests notice the end of the drain within a second.
    if settings.drain_timeout_s + 1 > int(settings.graceful_timeout_s):
        raise SettingsError(
            "DRAIN_TIMEOUT must be at least one second below GRACEFUL_TIMEOUT, or running requests would be killed."
        )
