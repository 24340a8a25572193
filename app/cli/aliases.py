"""`bin/gateway aliases`: gives models names of one's own, shows these, and removes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
import msgspec

from app.cli.errors import plain_errors
from app.services.administration import get_command_actor
from app.services.alias_administration import (
    AliasChanges,
    AliasView,
    TargetTerms,
    remove_alias,
    select_alias_view,
    select_alias_views,
    set_alias,
)

_TO_HELP = "The models, as <provider>/<model>, divided by commas; the first is asked first."
_WEIGHTS_HELP = "Shares of the requests: a number for each model in order, as in 3,1, or <model>=3 for some of them."
_SORT_HELP = "For each request, first the cheapest, the quickest to begin, or the fastest model."
_OVERRIDE_HELP = "FIELD=VALUE: what each request is to have in this field; VALUE is JSON or a string. Repeatable."
# The values for --clear, and an alias's field after it.
_EMPTY: dict[str, Any] = {"sort": None, "overrides": {}, "weights": None}


@click.group("aliases")
def aliases_group() -> None:
    """Manage your own names for models."""


@aliases_group.command("set")
@click.argument("name")
@click.option("--to", "targets", metavar="MODELS", help=_TO_HELP)
@click.option("--weights", help=_WEIGHTS_HELP)
@click.option("--sort", type=click.Choice(["price", "latency", "throughput"]), help=_SORT_HELP)
@click.option("--override", "overrides", multiple=True, metavar="FIELD=VALUE", help=_OVERRIDE_HELP)
@click.option("--clear", multiple=True, type=click.Choice(list(_EMPTY)), help="What to take away; repeatable.")
def set_command(name: str, targets: str | None, weights: str | None, clear: Sequence[str], **given: Any) -> None:
    """Make or change the alias NAME. Options replace what they name; overrides are replaced as a whole."""
    with plain_errors():
        fields: dict[str, Any] = {"sort": given["sort"], "overrides": _read_overrides(given["overrides"]) or None}
        fields = {field: value for field, value in fields.items() if value is not None}
        if targets is not None:
            fields["targets"] = tuple(TargetTerms(name=each) for each in _split(targets, "--to"))
        elif weights is not None or "weights" in clear:
            found = select_alias_view(name).targets
            is_kept = "weights" not in clear
            fields["targets"] = tuple(
                TargetTerms(name=each.name, weight=each.weight if is_kept else None) for each in found
            )
        if weights is not None:
            fields["targets"] = _weigh(fields["targets"], weights)
        for option in clear:
            if option in fields or (option == "weights" and weights is not None):
                raise click.UsageError(f"--clear {option} takes away what another option sets. Give one of the two.")
            if option != "weights":
                fields[option] = _EMPTY[option]
        if not fields:
            raise click.UsageError("Nothing to set is given. `bin/gateway aliases set --help` lists the options.")
        view = set_alias(get_command_actor(), name, AliasChanges(**fields))
    click.echo(_format_alias(view))


def _split(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise click.UsageError(f"{option} is empty. `bin/gateway aliases set --help` says what it takes.")
    return parts


def _weigh(targets: Sequence[TargetTerms], text: str) -> tuple[TargetTerms, ...]:
    """Returns the targets with these weights; targets without a weight in the text keep theirs."""
    parts, names = _split(text, "--weights"), [target.name for target in targets]
    if not any("=" in part for part in parts):
        if len(parts) != len(names):
            raise click.UsageError(f"--weights has {len(parts)} numbers for {len(names)} models. Give one for each.")
        return tuple(TargetTerms(name=name, weight=_read_weight(part)) for name, part in zip(names, parts, strict=True))
    weights = {target.name: target.weight for target in targets}
    for part in parts:
        name, _, number = part.rpartition("=")
        if name not in names:
            raise click.UsageError(f"--weights names {name or part!r}, which is not one of: {', '.join(names)}.")
        weights[name] = _read_weight(number)
    return tuple(TargetTerms(name=name, weight=weight) for name, weight in weights.items())


def _read_weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"{text!r} in --weights is not a number. Write one above 0, such as 3 or 0.5.") from None


def _read_overrides(given: Sequence[str]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for each in given:
        field, equals, text = each.partition("=")
        if not equals or not field or field in overrides:
            wrong = "is there twice" if field in overrides else "has no value"
            raise click.UsageError(f"--override {field or each!r} {wrong}. Write it once, as in temperature=0.2.")
        try:
            overrides[field] = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            overrides[field] = text
    return overrides


@aliases_group.command("list")
def list_command() -> None:
    """List all aliases."""
    with plain_errors():
        views = select_alias_views()
    width = max([len("NAME"), *(len(view.name) for view in views)])
    click.echo(f"{'NAME':{width}}  {'SORT':10}  TARGETS")
    for view in views:
        click.echo(f"{view.name:{width}}  {view.sort or '-':10}  {', '.join(_format_targets(view))}")


@aliases_group.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Show the alias NAME."""
    with plain_errors():
        view = select_alias_view(name)
    click.echo(_format_alias(view))


@aliases_group.command("remove")
@click.argument("name")
def remove_command(name: str) -> None:
    """Take the alias NAME away."""
    with plain_errors():
        view = remove_alias(get_command_actor(), name)
    click.echo(f"Removed {view.name}. Requests for it are refused within seconds.")


def _format_alias(view: AliasView) -> str:
    targets, overrides = _format_targets(view), msgspec.json.encode(view.overrides).decode()
    values = {
        "name": view.name,
        "targets": f"\n{'':20} ".join(targets),
        "sort": view.sort or "-",
        "overrides": overrides if view.overrides else "-",
        "created": f"{view.created_at:%Y-%m-%d %H:%M:%S}",
    }
    return "\n".join(f"{name:20} {value}" for name, value in values.items())


def _format_targets(view: AliasView) -> list[str]:
    return [
        target.name if target.weight is None else f"{target.name} (weight {target.weight:g})" for target in view.targets
    ]
