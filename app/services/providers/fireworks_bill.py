"""Fireworks' bill from its control plane: tokens by day and model, and dollars up to a day later.

The control plane is on the host of the inference API. A key sees only its own account, so each key of
FIREWORKS_BILLING_KEY determines an account, and keys of several accounts add up. Deployments, which are billed by the
hour, are not included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from app.config import Settings
from app.errors import UpstreamAuthenticationFailed, UpstreamError
from app.services.providers.bill import Bill, BilledUse, BillSource
from app.upstream import UpstreamClient

_KEY_SETTING = "FIREWORKS_BILLING_KEY"
# The annotation with the gateway's name, of the three `team`, `project` and `environment`.
_ANNOTATION = "project"
_TIMEOUT_S = 30.0
# A month of a hundred models takes four pages of a thousand rows.
_MAX_PAGES = 100


def make_name_headers(name: str) -> Mapping[str, str]:
    """Returns the request headers by which the usage report distinguishes this gateway's requests from others."""
    return {"Fireworks-Annotations": f"{_ANNOTATION}={name}"}


def fetch_bill(settings: Settings, first: date, last: date, name: str | None) -> Bill:
    """Fetches the bill from `first` to `last`, at most 31 UTC days.

    Args:
        settings: with FIREWORKS_BILLING_KEY.
        first, last: both included.
        name: the gateway's name, to also get its requests separately; None for the whole account.

    Raises:
        UpstreamError: a request failed, or an answer has another form.
    """
    bills: dict[str, Bill] = {}
    for key in settings.fireworks_billing_key:
        client = _make_client(settings, key)
        try:
            account = _fetch_account(client)
            if account not in bills:
                bills[account] = _fetch_bill_of(client, account, first, last, name)
        finally:
            client.close()
    named: dict[date, tuple[int, int]] = {}
    for bill in bills.values():
        for day, (prompt, completion) in (bill.named or {}).items():
            before = named.get(day, (0, 0))
            named[day] = before[0] + prompt, before[1] + completion
    return Bill(
        account=", ".join(bills),
        uses=_sum_up(use for bill in bills.values() for use in bill.uses),
        costs_refusal=next((bill.costs_refusal for bill in bills.values() if bill.costs_refusal), None),
        named=None if name is None else named,
    )


def _fetch_bill_of(client: UpstreamClient, account: str, first: date, last: date, name: str | None) -> Bill:
    uses = [use for use, _ in _fetch_uses(client, account, first, last, "model_name")]
    named: dict[date, tuple[int, int]] = {}
    for use, groups in _fetch_uses(client, account, first, last, f"annotations.{_ANNOTATION}") if name else ():
        if name in groups:
            prompt, completion = named.get(use.day, (0, 0))
            named[use.day] = prompt + use.prompt_tokens, completion + use.completion_tokens
    refusal = None
    try:
        uses += _fetch_costs(client, account, first, last)
    except UpstreamAuthenticationFailed as error:
        refusal = f"{error.message} The costs of an account need the key of one of its administrators."
    return Bill(account=account, uses=uses, costs_refusal=refusal, named=named)


BILL = BillSource(
    fetch=fetch_bill,
    key_setting=_KEY_SETTING,
    # It caches an answer for some minutes, and rates dollars up to a day late.
    tokens_settle_after=timedelta(hours=2),
    costs_settle_after=timedelta(hours=26),
)


def _make_client(settings: Settings, key: str) -> UpstreamClient:
    # By default the host of the inference API, so that a key only goes to a host that the operator named.
    url = settings.fireworks_control_url or settings.fireworks_base_url.removesuffix("/inference/v1")
    return UpstreamClient(
        title="Fireworks' control plane", base_url=url, api_keys=(key,), key_setting=_KEY_SETTING, settings=settings
    )


def _fetch_account(client: UpstreamClient) -> str:
    """Returns the account of the client's key, as `accounts/<id>`.

    Raises:
        UpstreamError: the request failed, or the key sees no account or several.
    """
    rows = _read_rows(client, client.fetch_json("/v1/accounts", timeout_s=_TIMEOUT_S), "accounts")
    names = [row["name"] for row in rows if isinstance(row.get("name"), str) and row["name"].startswith("accounts/")]
    if len(names) != 1:
        seen = ", ".join(names[:5]) or "no account"
        raise UpstreamError(f"The key of {_KEY_SETTING} sees {seen}. Use a key that belongs to one account.")
    name: str = names[0]
    return name


def _fetch_uses(
    client: UpstreamClient, account: str, first: date, last: date, group_by: str
) -> Iterator[tuple[BilledUse, Sequence[object]]]:
    """Yields the tokens of each day and group, each with the values of its group."""
    query = {
        "startTime": _format_midnight(first),
        "endTime": _format_midnight(last + timedelta(days=1)),
        "timezone": "UTC",
        "groupBy": group_by,
    }
    document = client.fetch_json(f"/v1/{account}/billingUsage", query, timeout_s=_TIMEOUT_S)
    for row in _read_rows(client, document, "serverlessCosts"):
        yield _read(client, _read_use, row), list(_get_group(row).values())


def _fetch_costs(client: UpstreamClient, account: str, first: date, last: date) -> Iterator[BilledUse]:
    """Yields the cost of each model on each day, page by page."""
    question = {
        "scope": "ACCOUNT",
        "groupBy": ["DAY", "MODEL"],
        "startTime": _format_midnight(first),
        "endTime": _format_midnight(last + timedelta(days=1)),
    }
    token = ""
    for _ in range(_MAX_PAGES):
        asked = question | ({"pageToken": token} if token else {})
        url = f"/v1/{account}/usageCosts:query"
        document = client.fetch_json(url, body=msgspec.json.encode(asked), timeout_s=_TIMEOUT_S)
        for row in _read_rows(client, document, "rows"):
            yield _read(client, _read_cost, row)
        token = str(document.get("nextPageToken") or "")
        if not token:
            return
    raise UpstreamError(f"The costs of {client.title} have no last page.")


def _sum_up(uses: Iterable[BilledUse]) -> list[BilledUse]:
    """Returns one use for each day and model, in this order; a number that none of its parts has is None."""
    sums: dict[tuple[date, str], BilledUse] = {}
    for use in uses:
        known = sums.get((use.day, use.model), BilledUse(day=use.day, model=use.model))
        costs = [cost for cost in (known.cost_usd, use.cost_usd) if cost is not None]
        sums[use.day, use.model] = BilledUse(
            day=use.day,
            model=use.model,
            prompt_tokens=known.prompt_tokens + use.prompt_tokens,
            completion_tokens=known.completion_tokens + use.completion_tokens,
            cost_usd=sum(costs, Decimal(0)) if costs else None,
        )
    return [use for _, use in sorted(sums.items())]


def _format_midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _read_day(value: Any) -> date:
    """Returns the UTC day that begins at a time; raises ValueError if the time is not midnight."""
    moment = datetime.fromisoformat(value).astimezone(UTC)
    if moment.time() != time():
        raise ValueError("a day does not begin at midnight in UTC")
    return moment.date()


def _read_count(value: Any) -> int:
    """Returns a number of tokens, which is a text in JSON; raises ValueError for a negative one."""
    count = int(value or 0)
    if count < 0:
        raise ValueError("a number of tokens is negative")
    return count


def _read_usd(money: Mapping[str, Any]) -> Decimal:
    """Returns an amount from whole units and billionths; raises ValueError for a currency other than USD."""
    if money.get("currencyCode") != "USD":
        raise ValueError("an amount is not in USD")
    return Decimal(int(money.get("units") or 0)) + Decimal(int(money.get("nanos") or 0)).scaleb(-9)


def _get_group(row: Mapping[str, Any]) -> Mapping[str, Any]:
    group = row.get("group")
    return group if isinstance(group, dict) else {}


def _read_use(row: Mapping[str, Any]) -> BilledUse:
    return BilledUse(
        day=_read_day(row["startTime"]),
        model=str(_get_group(row).get("model_name") or row.get("modelName") or ""),
        prompt_tokens=_read_count(row.get("promptTokens")),
        completion_tokens=_read_count(row.get("completionTokens")),
    )


def _read_cost(row: Mapping[str, Any]) -> BilledUse:
    dimensions = row["dimensions"]
    return BilledUse(
        day=_read_day(dimensions["startTime"]),
        model=str(dimensions.get("model") or ""),
        cost_usd=_read_usd(row["subtotal"]),
    )


def _read(client: UpstreamClient, read: Callable[[Mapping[str, Any]], BilledUse], row: Mapping[str, Any]) -> BilledUse:
    """Returns a row of an answer.

    Raises:
        UpstreamError: it has another form.
    """
    try:
        return read(row)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UpstreamError(f"A row of {client.title} cannot be read: {error}.") from error


def _read_rows(client: UpstreamClient, document: Any, name: str) -> list[dict[str, Any]]:
    rows = document.get(name) if isinstance(document, dict) else None
    if rows is None and isinstance(document, dict):
        return []  # An empty list is omitted.
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UpstreamError(f"The answer of {client.title} has no list {name}.")
    return rows
