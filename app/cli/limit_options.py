"""The options of all commands that set limits, and the times in such options."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
import msgspec
from msgspec import UNSET

from app.db.tables import MAX_TOKENS
from app.services.administration import BudgetTerms, find_idle_patterns, parse_budget
from app.services.providers import PROVIDERS

Command = TypeVar("Command", bound=Callable[..., Any])

_NUMBER = click.IntRange(1, 10**9)
_TOKENS = click.IntRange(1, MAX_TOKENS)
_MODELS_HELP = "Allowed models, as patterns of provider/id, such as '*/deepseek-v3p1,*/llama-*'."
_BUDGET_HELP = "Such as 50/month (USD), 5M-tokens/day or 1000-requests/24h; repeatable."
_UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
# Value of --clear → the field that it clears, and the field's value afterwards.
_FIELDS: dict[str, tuple[str, Any]] = {
    "group": ("group", None),
    "expires": ("expires_at", None),
    "models": ("models", ()),
    "rpm": ("requests_per_minute", None),
    "tpm": ("tokens_per_minute", None),
    "concurrent": ("concurrent", None),
    "max-output-tokens": ("max_output_tokens", None),
}
_OF_LIMITS = [name for name in _FIELDS if name not in {"group", "expires"}]

_OPTIONS = [
    click.option("--budget", "budgets", multiple=True, metavar="BUDGET", help=_BUDGET_HELP),
    click.option("--timezone", help="Time zone of the budgets' days, such as Europe/Berlin; UTC by default."),
    click.option("--first-day", type=click.IntRange(1, 28), help="First day of their weeks or months."),
    click.option("--warn", metavar="PERCENTS", help="Percentages at which to warn, such as 80,95."),
    click.option("--rpm", type=_NUMBER, help="Requests in any minute."),
    click.option("--tpm", type=_TOKENS, help="Tokens in any minute."),
    click.option("--concurrent", type=_NUMBER, help="Requests at once."),
    click.option("--models", metavar="PATTERNS", help=_MODELS_HELP),
    click.option("--max-output-tokens", type=_TOKENS, help="The most output tokens of a request."),
]  # fmt: skip


def limit_options(command: Command) -> Command:
    """Adds the options that set limits to a command; `read_limits` reads them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def clear_option(*, of_keys: bool = False) -> Callable[[Command], Command]:
    """Returns the option `--clear`, including the fields of keys or not."""
    choices = list(_FIELDS) if of_keys else _OF_LIMITS
    return click.option("--clear", multiple=True, type=_Clearable(choices), help="A limit to take away; repeatable.")


class _Clearable(click.Choice[str]):
    """The limits that --clear can remove. The error for a budget names the command that ends one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the name, or raises click.BadParameter."""
        if value in {"budget", "budgets"}:
            self.fail("A budget is ended with `budgets end ID`; `budgets list` shows the ids.", param, ctx)
        return super().convert(value, param, ctx)


def read_limits(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of LimitChanges given as options, and removes them from `given`.

    Raises:
        click.ClickException: an option makes no sense.
    """
    fields: dict[str, Any] = {"budgets": _read_budgets(given)}
    plain = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute"}
    for option in ("rpm", "tpm", "concurrent", "max_output_tokens"):
        fields[plain.get(option, option)] = given.pop(option)
    models = given.pop("models")
    fields["models"] = None if models is None else _read_patterns(models)
    fields = {name: value for name, value in fields.items() if value is not None}
    for name in given.pop("clear", ()):
        field, empty = _FIELDS[name]
        if field in fields:
            raise click.UsageError(f"--clear {name} takes away what --{name} sets. Give one of the two.")
        fields[field] = empty
    _warn_of_unknown_providers(fields.get("models", ()))
    return fields


def _read_budgets(given: dict[str, Any]) -> tuple[BudgetTerms, ...] | None:
    texts, timezone, first_day, warn = (given.pop(name) for name in ("budgets", "timezone", "first_day", "warn"))
    details = {"--timezone": timezone, "--first-day": first_day, "--warn": warn}
    if not texts:
        for name, value in details.items():
            if value is not None:
                raise click.UsageError(f"{name} is about the budgets of the same command. Give --budget too.")
        return None
    changes: dict[str, Any] = {"timezone": timezone, "first_day": first_day}
    changes["warn_percents"] = None if warn is None else _read_percents(warn)
    changes = {name: value for name, value in changes.items() if value is not None}
    return tuple(msgspec.structs.replace(parse_budget(text), **changes) for text in texts)


def _read_patterns(text: str) -> tuple[str, ...]:
    patterns = tuple(part.strip() for part in text.split(",") if part.strip())
    if not patterns:
        # An empty list would allow every model, which an unset variable in a script must not cause.
        raise click.UsageError("--models names no model. Give patterns as --help shows them, or leave it out for all.")
    return patterns


def _read_percents(text: str) -> tuple[int, ...]:
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 100 for part in parts):
        raise click.UsageError(f"--warn is {text!r}; it must be whole numbers from 1 to 100, such as 80,95.")
    return tuple(int(part) for part in parts)


def _warn_of_unknown_providers(patterns: tuple[str, ...]) -> None:
    """Warns of patterns that match no model of any provider. Only the gateway knows the models."""
    for pattern in patterns:
        provider, slash, _ = pattern.lower().partition("/")
        if slash and find_idle_patterns([provider], PROVIDERS):
            click.echo(f"Warning: {pattern!r} matches no model: the providers are {', '.join(PROVIDERS)}.", err=True)


def parse_duration(text: str) -> int:
    """Returns the seconds of a duration such as 90m, 24h, 30d or 2w; 0 is allowed.

    Raises:
        click.UsageError: it is not a duration.
    """
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text.strip().lower())
    if found is None and text.strip() != "0":
        raise click.UsageError(f"{text!r} is not a duration. Write one like 90m, 24h, 30d or 2w.")
    return 0 if found is None else int(found[1]) * _UNITS[found[2]]


def read_expiry(text: str | None) -> Any:
    """Returns the expiry of a key; UNSET if none is given.

    Args:
        text: a day or a time in ISO 8601, in UTC if it has no offset, or a duration from now.

    Raises:
        click.UsageError: it is neither.
    """
    if text is None:
        return UNSET
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    try:
        return datetime.now(UTC) + timedelta(seconds=parse_duration(text))
    except (click.UsageError, OverflowError):
        raise click.UsageError(
            f"--expires is {text!r}; it must be a day or a time (UTC), such as 2027-01-31 or 2027-01-31T18:00:00Z, or"
            " a duration such as 90d."
        ) from None
