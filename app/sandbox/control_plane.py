"""The part of Fireworks' control plane that a bill needs: the account of a key, tokens by day, and rated dollars.

Every key is an administrator's, except those that begin with `member`, which may not read the account's costs.
"""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

from app.sandbox.books import Billed
from app.sandbox.failures import Failure, RequestRefused, make_front_failure
from app.sandbox.providers import FIREWORKS
from app.sandbox.state import State
from app.sandbox.web import Request, Response, make_json_response

ACCOUNT = "accounts/sandbox"
BOOKS_PATH = "/sandbox/books"
ACCOUNTS_PATH = "/v1/accounts"
USAGE_PATH = f"/v1/{ACCOUNT}/billingUsage"
COSTS_PATH = f"/v1/{ACCOUNT}/usageCosts:query"

_LONGEST = timedelta(days=31)
# Few enough that a month of a few models has several pages.
_PAGE_ROWS = 50
_GROUPS = {"model_name": "model", "annotations.project": "tag"}


def list_accounts(request: Request) -> Response:
    """Returns the account of the key."""
    FIREWORKS.raise_if_key_refused(request)
    account = {"name": ACCOUNT, "displayName": "Sandbox", "accountType": "ENTERPRISE"}
    return make_json_response(200, {"accounts": [account], "nextPageToken": "", "totalSize": 1})


def show_usage(state: State, request: Request) -> Response:
    """Returns the tokens of each day, by model or by annotation."""
    FIREWORKS.raise_if_key_refused(request)
    query = request.query
    group_by = query.get("groupBy", "")
    if group_by not in _GROUPS:
        raise _make_refusal("groupBy must be one of: " + ", ".join(_GROUPS))
    first, end = _read_days(query)
    sums: dict[tuple[date, str], list[int]] = {}
    for billed in state.books.bill(first, end):
        row = sums.setdefault((billed.day, getattr(billed, _GROUPS[group_by])), [0, 0])
        row[0] += billed.prompt_tokens
        row[1] += billed.completion_tokens
    rows = [_make_usage_row(group_by, *key, *sums[key]) for key in sorted(sums)]
    return make_json_response(200, {"serverlessCosts": rows, "dedicatedCosts": []})


def query_costs(state: State, request: Request) -> Response:
    """Returns the cost of each model on each day, page by page."""
    FIREWORKS.raise_if_key_refused(request)
    try:
        body = json.loads(request.body)
        scope, token = body.get("scope"), int(body.get("pageToken") or 0)
    except (ValueError, AttributeError) as error:
        raise _make_refusal("invalid query") from error
    if scope == "ACCOUNT" and request.bearer.startswith("member"):
        raise RequestRefused(
            Failure(403, {"error": {"message": "The scope ACCOUNT needs an admin.", "code": "FORBIDDEN"}})
        )
    if body.get("groupBy") != ["DAY", "MODEL"]:
        raise _make_refusal("groupBy: only DAY and MODEL are known here")
    first, end = _read_days(body)
    sums: dict[tuple[date, str], Billed] = {}
    for each in state.books.bill(first, end):
        known = sums.get((each.day, each.model))
        usd = each.usd if known is None else known.usd + each.usd
        sums[each.day, each.model] = Billed(each.day, each.model, "", 0, 0, usd)
    rows = [
        {"dimensions": {"startTime": _format(day), "model": model}, "subtotal": billed.money}
        for (day, model), billed in sorted(sums.items())
    ]
    page = rows[token : token + _PAGE_ROWS]
    following = str(token + _PAGE_ROWS) if token + _PAGE_ROWS < len(rows) else ""
    return make_json_response(200, {"rows": page, "nextPageToken": following})


def change_books(state: State, request: Request) -> Response:
    """Shows the books, after the changes in a POST."""
    if request.method != "POST":
        return make_json_response(200, state.books.describe())
    try:
        return make_json_response(200, state.books.change(request.body))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        return make_json_response(400, {"error": f"{type(error).__name__}: {error}"})


def _make_usage_row(group_by: str, day: date, value: str, prompt: int, completion: int) -> dict[str, Any]:
    is_embedding = "embedding" in value or "rerank" in value
    return {
        "modelName": value if group_by == "model_name" else "",
        "promptTokens": str(prompt),
        "completionTokens": str(completion),
        "startTime": _format(day),
        "endTime": _format(day + timedelta(days=1)),
        "audioInputSeconds": 0,
        "usageType": "EMBEDDING_INFERENCE_USAGE" if is_embedding else "TEXT_COMPLETION_INFERENCE_USAGE",
        "apiKeyId": "",
        "group": {group_by: value},
    }


def _read_days(values: dict[str, Any]) -> tuple[date, date]:
    try:
        first, end = (datetime.fromisoformat(values[name]).astimezone(UTC) for name in ("startTime", "endTime"))
    except (KeyError, TypeError, ValueError) as error:
        raise _make_refusal("startTime and endTime must be times") from error
    if not timedelta(0) < end - first <= _LONGEST:
        raise _make_refusal("the time range must be at most 31 days")
    return first.date(), end.date()


def _format(day: date) -> str:
    return f"{day}T00:00:00Z"


def _make_refusal(text: str) -> RequestRefused:
    return RequestRefused(make_front_failure(400, text, "INVALID_ARGUMENT", None))
