"""Keys, holders, groups and budgets as tables and lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from app.services.administration import BudgetState, GroupView, HolderView, KeyView, LimitsView, describe_budget


def format_keys(keys: Sequence[KeyView]) -> str:
    """Returns all keys as a table; a property that no key has, for instance an expiry, has no column."""
    lines = [f"{'ID':12} {'NAME':24} {'ENDS IN':8} {'CREATED':20} REVOKED"]
    is_plain = not any(key.holder or key.expires_at or key.is_operator for key in keys)
    if not is_plain:
        lines[0] = f"{lines[0]:86} {'EXPIRES':20} {'HOLDER':20} {'GROUP':16} BUDGETS"
    for key in keys:
        revoked = _format_time(key.revoked_at)
        line = f"{key.id:12} {key.name:24} {key.last_four:8} {_format_time(key.created_at)}  {revoked}"
        if not is_plain:
            holder = "(operator)" if key.is_operator else key.holder or "-"
            expires, group = _format_time(key.expires_at), key.group or "-"
            line = f"{line:86} {expires:20} {holder:20} {group:16} {_format_uses(key.budgets)}"
        lines.append(line)
    return "\n".join(lines)


def format_key(key: KeyView) -> str:
    """Returns a key as text, a line for each value."""
    values = {
        "id": key.id,
        "name": key.name,
        "ends in": key.last_four,
        "created": _format_time(key.created_at),
        "expires": _format_time(key.expires_at),
        "revoked": _format_time(key.revoked_at),
        "replaced by": key.replaced_by or "-",
    }
    lines = [f"{name:20} {value}" for name, value in values.items()]
    if key.is_operator:
        return "\n".join([*lines, f"{'operator':20} yes; only the limits of the gateway apply"])
    lines += [f"{'holder':20} {key.holder or '-'}", f"{'group':20} {key.group or '-'}"]
    return "\n".join([*lines, *_format_limits(key)])


def format_holders(holders: Sequence[HolderView]) -> str:
    """Returns holders as a table, with the number of their live keys and the cost of all keys this month."""
    lines = [f"{'NAME':24} {'GROUP':16} {'KEYS':>6} {'COST THIS MONTH':>16} BUDGETS"]
    for holder in holders:
        keys = sum(key.revoked_at is None for key in holder.keys)
        cost = _format_amount(holder.usage_monthly)
        lines.append(f"{holder.name:24} {holder.group or '-':16} {keys:>6,} {cost:>16} {_format_uses(holder.budgets)}")
    return "\n".join(lines)


def format_holder(holder: HolderView) -> str:
    """Returns a holder as text, a line for each value and each key."""
    costs = {"total": holder.usage, "day": holder.usage_daily, "week": holder.usage_weekly}
    costs["month"] = holder.usage_monthly
    values = {
        "id": holder.id,
        "name": holder.name,
        "group": holder.group or "-",
        "created": _format_time(holder.created_at),
        "cost (USD)": ", ".join(f"{name} {_format_amount(cost)}" for name, cost in costs.items()),
    }
    keys = []
    for key in holder.keys:
        ends = {"revoked": key.revoked_at, "expires": key.expires_at}
        end = next((f", {name} {_format_time(at)}" for name, at in ends.items() if at is not None), "")
        keys.append(f"{key.id} ({key.name}){end}")
    keys = keys or ["none"]
    lines = [f"{name:20} {value}" for name, value in values.items()]
    lines += [f"{'keys':20} {keys[0]}", *[f"{'':20} {key}" for key in keys[1:]]]
    return "\n".join([*lines, *_format_limits(holder)])


def format_groups(groups: Sequence[GroupView]) -> str:
    """Returns all groups as a table."""
    lines = [f"{'NAME':24} {'HOLDERS':>8} {'CREATED':20} BUDGETS"]
    for group in groups:
        created = _format_time(group.created_at)
        lines.append(f"{group.name:24} {group.holders:>8,} {created:20} {_format_uses(group.budgets)}")
    return "\n".join(lines)


def format_group(group: GroupView) -> str:
    """Returns a group as text, a line for each value."""
    values = {
        "id": group.id,
        "name": group.name,
        "holders": f"{group.holders:,}",
        "created": _format_time(group.created_at),
    }
    return "\n".join([*[f"{name:20} {value}" for name, value in values.items()], *_format_limits(group)])


def format_limits(limits: LimitsView) -> str:
    """Returns the limits of the gateway as text, a line for each."""
    return "\n".join(_format_limits(limits))


def _format_limits(limits: LimitsView) -> list[str]:
    values = {
        "models": ", ".join(limits.models) or "all",
        "requests per minute": _format_number(limits.requests_per_minute),
        "tokens per minute": _format_number(limits.tokens_per_minute),
        "requests at once": _format_number(limits.concurrent),
        "max output tokens": _format_number(limits.max_output_tokens),
    }
    lines = [f"{name:20} {value}" for name, value in values.items()]
    budgets = [_format_budget(state) for state in limits.budgets] or ["none"]
    return [*lines, f"{'budgets':20} {budgets[0]}", *[f"{'':20} {budget}" for budget in budgets[1:]]]


def format_budgets(states: Sequence[BudgetState]) -> str:
    """Returns budgets as a table, with their current periods."""
    lines = [
        f"{'ID':>6} {'SUBJECT':24} {'BUDGET':20} {'CHARGED':>12} {'IN USE':>12} {'REMAINING':>12} {'USED':>7}"
        " RESETS (UTC)"
    ]
    for state in states:
        subject = "gateway" if state.of == "gateway" else f"{state.of} {state.name}"
        amounts = [_sum_charges(state), state.in_use, state.remaining]
        numbers = " ".join(f"{_format_amount(amount):>12}" for amount in amounts)
        line = f"{state.id:>6} {subject:24} {_describe(state):20} {numbers} {state.used_percent:>6}%"
        lines.append(f"{line} {_format_time(state.resets_at)}")
    return "\n".join(lines)


def _format_budget(state: BudgetState) -> str:
    details = [f"{_format_amount(_sum_charges(state))} charged", f"{_format_amount(state.in_use)} in use"]
    details.append(f"{_format_amount(state.remaining)} left")
    if state.resets_at is not None:
        details.append(f"resets {_format_time(state.resets_at)} UTC")
    if state.warn_percents:
        details.append(f"warns at {', '.join(map(str, state.warn_percents))} %")
    return f"{_describe(state)} (id {state.id}): {', '.join(details)}"


def _describe(state: BudgetState) -> str:
    text = describe_budget(state.amount, state.unit, state.window)
    if state.extra:
        text += f" +{_format_amount(state.extra)}"
    return text if state.timezone == "UTC" else f"{text} {state.timezone}"


def _format_uses(states: Sequence[BudgetState]) -> str:
    return ", ".join(f"{_describe(state)} {state.used_percent:g}%" for state in states) or "-"


def _sum_charges(state: BudgetState) -> Decimal:
    return state.charged.exact + state.charged.estimated + state.charged.ceiling


def _format_time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _format_number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _format_amount(amount: Decimal) -> str:
    return f"{amount:,.6f}".rstrip("0").rstrip(".")
