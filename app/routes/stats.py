"""`GET /api/catalog/gateway/<gateway>/stats`: statistics of a window of time, of a key, a holder, a group or of all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from flask import Blueprint, g

from app.errors import AuthenticationFailed, BadRequest, NotFound, PermissionDenied
from app.routes.catalog import GATEWAYS, UNKNOWN_GATEWAY
from app.runtime import get_settings
from app.services.administration import select_key_ids
from app.services.endpoints import ENDPOINTS
from app.services.keys import raise_if_no_key
from app.services.reports import (
    DEFAULT_TIME_RANGE,
    MAX_TOP_MODELS,
    SPLITS,
    STEPS,
    TIME_RANGES,
    AskedWindow,
    Owned,
    Stats,
    select_stats,
)
from app.web import NO_STORE, Response, json_response, one_of, read_query

bp = Blueprint("stats", __name__)


class StatsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the statistics.

    Attributes:
        time_range: the length of a window that ends now, by default DEFAULT_TIME_RANGE; not with `from`.
        start, end: `from` (included) and `to` (excluded) in the query; without `to` the window ends now.
        step: the length of the steps of the series; by default one that fits the window.
        top_models: of how many models each step has the numbers.
        model: the whole name of the model that served the requests, of all keys; None for all models.
        endpoint: the path of the endpoint whose requests to count; None for all endpoints.
        scope: "key" for the requests of one key, "holder" for those of all keys of a holder, "all" for those of all
            keys; None for what the caller may see.
        key: the id of the key with scope "key", by default the caller's; only the operator may name another.
        holder: the name or id of the holder with scope "holder", by default the caller's; likewise.
        group: the name or id of a group, whose holders' requests to count; only for the operator.
        split: what to split the statistics by; only the operator may split others than those of their own holder.
    """

    time_range: Annotated[str, one_of(TIME_RANGES)] | None = None
    start: datetime | None = msgspec.field(name="from", default=None)
    end: datetime | None = msgspec.field(name="to", default=None)
    step: Annotated[str, one_of(STEPS)] | None = None
    top_models: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_MODELS)] = 0
    model: str | None = None
    endpoint: Annotated[str, one_of([endpoint.path for endpoint in ENDPOINTS])] | None = None
    scope: Annotated[str, one_of(("all", "key", "holder"))] | None = None
    key: str | None = None
    holder: str | None = None
    group: str | None = None
    split: Annotated[str, one_of(SPLITS)] | None = None

    def __post_init__(self) -> None:
        if self.time_range is not None and (self.start is not None or self.end is not None):
            raise BadRequest(
                "`time_range` is a window that ends now. Omit it, or omit `from` and `to`.",
                param="time_range",
                code="invalid_parameter",
            )


class StatsBody(msgspec.Struct, frozen=True, kw_only=True):
    """The response: the statistics, and when they were read."""

    success: bool = True
    timestamp: datetime
    data: Stats


@bp.get("/api/catalog/gateway/<gateway>/stats")
def show_stats(gateway: str) -> Response:
    """Returns the statistics of one gateway, or of all of them together."""
    name = gateway.lower()
    if name not in GATEWAYS:
        message = UNKNOWN_GATEWAY.format(value=gateway[:100], choices=", ".join(GATEWAYS))
        raise NotFound(message, param="gateway", code="unknown_gateway")
    query = read_query(StatsQuery)
    _raise_if_contradictory(query)
    owned = _choose_owned(query)
    window = AskedWindow(
        time_range=query.time_range or DEFAULT_TIME_RANGE, start=query.start, end=query.end, step=query.step
    )
    data = select_stats(
        name,
        window,
        key_id=None if owned is not None else _choose_key(query),
        model=query.model,
        endpoint=query.endpoint,
        top_models=query.top_models,
        owned=owned,
        split_by=_choose_split(query, owned),
    )
    body = StatsBody(timestamp=datetime.now(UTC), data=data)
    return json_response(body, headers=NO_STORE)


def _raise_if_contradictory(query: StatsQuery) -> None:
    """Raises BadRequest if parameters exclude each other."""
    if query.key is not None and query.scope not in {None, "key"}:
        raise BadRequest("`key` is for scope=key. Omit one of the two.", param="key", code="invalid_parameter")
    if query.holder is not None and query.scope not in {None, "holder"}:
        raise BadRequest("`holder` is for scope=holder. Omit one of the two.", param="holder", code="invalid_parameter")
    if query.group is not None and query.scope is not None:
        raise BadRequest("`group` is a scope of its own. Omit `scope`.", param="group", code="invalid_parameter")
    if query.model is not None and (query.key is not None or query.scope in {"key", "holder"}):
        raise BadRequest(
            "Statistics of a model cover all keys. Omit `model`, or omit `key` and `scope`; `models` in the statistics"
            " of a key has the key's totals of each model.",
            param="model",
            code="invalid_parameter",
        )
    given = [name for name in ("key", "holder", "group", "model") if getattr(query, name) is not None]
    if len(given) > 1:
        raise BadRequest(
            f"`{given[0]}` and `{given[1]}` exclude each other. Omit one of the two.",
            param=given[1],
            code="invalid_parameter",
        )
    if query.split is not None and (query.model is not None or query.key is not None or query.scope == "key"):
        raise BadRequest(
            "`split` is for the statistics of all keys, of a holder or of a group. Omit it, or the others.",
            param="split",
            code="invalid_parameter",
        )


def _choose_owned(query: StatsQuery) -> Owned | None:
    """Returns the holder or the group whose requests are counted; None for other statistics.

    Raises:
        AuthenticationFailed: the caller asks for the requests of a holder or a group and has no key.
        PermissionDenied: the caller is not the operator, and asks for those of another holder or a group.
        BadRequest: the caller asks for their own holder, and the key has none.
        NotFound: there is no such holder or group.
    """
    if query.holder is None and query.group is None and query.scope != "holder":
        return None
    if g.key is None:
        raise _make_key_missing("a holder or a group")
    if not g.key.is_operator:
        return _choose_own_holder(query)
    if query.group is not None:
        return Owned("group", *select_key_ids(group=query.group))
    if query.holder is None:
        raise BadRequest(
            "An operator's key has no holder. Name one as `holder`.", param="holder", code="invalid_parameter"
        )
    return Owned("holder", *select_key_ids(holder=query.holder))


def _choose_own_holder(query: StatsQuery) -> Owned:
    if query.group is not None:
        raise PermissionDenied("Only the operator's key may read statistics of a group. Omit `group`.", param="group")
    if not g.key.holder_id:
        raise BadRequest(
            "This key has no holder, so only its own statistics can be read: scope=key.",
            param="scope",
            code="invalid_parameter",
        )
    name, keys = select_key_ids(holder=g.key.holder_id)
    if query.holder not in {None, name, g.key.holder_id}:
        raise PermissionDenied("A key may read only the statistics of its own holder. Omit `holder`.", param="holder")
    return Owned("holder", name, keys)


def _choose_split(query: StatsQuery, owned: Owned | None) -> Any:
    """Returns the dimension of the split; None for no split.

    Raises:
        PermissionDenied: the caller is not the operator, and these are not the requests of their own holder.
    """
    if query.split is None or owned is not None or (g.key is not None and g.key.is_operator):
        return query.split
    raise PermissionDenied(
        "Only the operator's key may split the statistics of all keys. Add scope=holder to split those of your own"
        " holder by key.",
        param="split",
    )


def _choose_key(query: StatsQuery) -> str | None:
    """Returns the id of the key whose requests are counted, or None for those of all keys.

    Raises:
        AuthenticationFailed: the caller asks for the requests of a key and has none.
        PermissionDenied: the caller is not the operator, and asks for another key or, unless PUBLIC_STATS is true, for
            all keys.
        NotFound: `key` is not stored.
    """
    caller = g.key
    if query.key is not None or query.scope == "key":
        return _choose_one_key(query.key)
    if caller is None or caller.is_operator:
        return None
    own: str = caller.id
    if query.scope is None and query.model is None:
        return own
    if not get_settings().public_stats:
        param = "scope" if query.scope is not None else "model"
        raise PermissionDenied(
            "Only the operator's key may read statistics of all keys, and those of a model are of all keys. Omit "
            f"`{param}` to get those of your own key. The operator can open them to everybody with PUBLIC_STATS=true.",
            param=param,
        )
    return None


def _choose_one_key(asked: str | None) -> str:
    if g.key is None:
        raise _make_key_missing("a key")
    own: str = g.key.id
    if asked not in {None, own} and not g.key.is_operator:
        raise PermissionDenied("A key may read only its own statistics. Omit `key`.", param="key")
    if asked not in {None, own}:
        raise_if_no_key(str(asked))
    return asked or own


def _make_key_missing(whose: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"Statistics of {whose} need the key. Send it as `Authorization: Bearer <your gateway key>`, or `x-api-key`.",
        code="missing_api_key",
    )
