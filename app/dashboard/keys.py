"""Keys: operators make, change, rotate and revoke them; a key's holder sees only their own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from flask import g, request

from app.dashboard.frame import pages, read_form, require_operator, show
from app.dashboard.limit_forms import decode, read_day, read_limits, read_number, write_limits
from app.errors import GatewayError
from app.layout import redirect_to
from app.services.administration import (
    DEFAULT_OVERLAP_S,
    KEY_STATES,
    KeyChanges,
    KeyView,
    NewKey,
    change_key,
    create_key,
    revoke_key,
    rotate_key,
    select_groups,
    select_key_view,
    select_keys_page,
    select_own_key,
)
from app.web import Response, one_of, read_query

PAGE_ROWS = 50
_HERE = "dashboard/keys"
_OVERLAP_HOURS = DEFAULT_OVERLAP_S // 3600


class KeysChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen keys, as in the API, and the page of them; empty fields do not filter."""

    search: str = ""
    state: Annotated[str, one_of(("", *KEY_STATES))] = ""
    holder: str = ""
    group: str = ""
    cursor: str = ""

    def get_parameters(self) -> dict[str, str | None]:
        """Returns the parameters that choose the same keys."""
        names = ("search", "state", "holder", "group")
        return {name: getattr(self, name).strip() or None for name in names}


@pages.get("/dashboard/keys")
def show_keys() -> Response:
    """Shows all keys to an operator, and to anybody else only their own."""
    if not g.key.is_operator:
        return show("key_own.html", _HERE, own=select_own_key(g.key))
    query = read_query(KeysChoice)
    parameters = query.get_parameters()
    page = select_keys_page(**parameters, cursor=query.cursor or None, limit=PAGE_ROWS)
    return show(
        "keys.html",
        _HERE,
        page=page,
        parameters=parameters,
        is_first=not query.cursor,
        states=KEY_STATES,
        now=datetime.now(UTC),
    )


@pages.get("/dashboard/keys/new")
def show_new_key() -> Response:
    """Shows the form for a new key; the query may fill it in."""
    require_operator()
    return _show_new({name: request.args.get(name, "") for name in ("name", "holder", "group")})


@pages.post("/dashboard/keys/new")
def make_key() -> Response:
    """Makes a key and shows its secret, which is not shown again."""
    require_operator()
    form = read_form()
    try:
        made = create_key(g.key.id, _read_new(form))
    except GatewayError as error:
        return _show_new(form, error)
    return show("key_secret.html", _HERE, key=made.data, secret=made.key, warnings=made.warnings, old=None)


@pages.get("/dashboard/keys/<id>")
def show_key(id: str) -> Response:
    """Shows a key with its limits and the use of its budgets."""
    require_operator()
    key = select_key_view(id)
    return _show_one(key, _write_key(key))


@pages.post("/dashboard/keys/<id>")
def change_one(id: str) -> Response:
    """Changes a key and the limits of its holder."""
    require_operator()
    form = read_form()
    try:
        changed = change_key(g.key.id, id, _read_changes(form))
    except GatewayError as error:
        key = select_key_view(id)
        return _show_one(key, _write_key(key) | form, error)
    return redirect_to(f"{_HERE}/{changed.id}?done=changed")


@pages.post("/dashboard/keys/<id>/rotate")
def rotate_one(id: str) -> Response:
    """Makes a key that replaces this one, and shows its secret."""
    require_operator()
    try:
        hours = read_number(read_form().get("overlap_h", str(_OVERLAP_HOURS)))
        made = rotate_key(g.key.id, id, (hours if isinstance(hours, int) else -1) * 3600)
    except GatewayError as error:
        key = select_key_view(id)
        return _show_one(key, _write_key(key), error)
    return show("key_secret.html", _HERE, key=made.data, secret=made.key, warnings=made.warnings, old=id)


@pages.get("/dashboard/keys/<id>/revoke")
def ask_to_revoke(id: str) -> Response:
    """Asks whether to revoke a key, because that cannot be undone."""
    require_operator()
    return show("key_revoke.html", _HERE, key=select_key_view(id))


@pages.post("/dashboard/keys/<id>/revoke")
def revoke_one(id: str) -> Response:
    """Revokes a key."""
    require_operator()
    revoke_key(g.key.id, id)
    return redirect_to(f"{_HERE}/{id}?done=revoked")


def _show_new(form: Mapping[str, str], error: GatewayError | None = None) -> Response:
    blank = write_limits(None) | dict.fromkeys(("name", "holder", "group", "expires_on", "is_operator"), "")
    return _show_form("key_new.html", error, form=blank | dict(form), groups=select_groups())


def _show_one(key: KeyView, form: Mapping[str, str], error: GatewayError | None = None) -> Response:
    return _show_form(
        "key.html",
        error,
        key=key,
        form=form,
        groups=select_groups(),
        done=request.args.get("done", ""),
        overlap_hours=_OVERLAP_HOURS,
        now=datetime.now(UTC),
    )


def _show_form(template: str, error: GatewayError | None, **values: Any) -> Response:
    if error is None:
        return show(template, _HERE, error="", **values)
    return show(template, _HERE, error=error.message, status=error.status, headers=error.headers(), **values)


def _write_key(key: KeyView) -> dict[str, str]:
    expires_on = "" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d}"
    plain = {"name": key.name, "group": key.group or "", "expires_on": expires_on, "expires_on_before": expires_on}
    return plain | write_limits(key)


def _read_new(form: Mapping[str, str]) -> NewKey:
    is_operator = form.get("is_operator") == "yes"
    # Empty fields are left out: for a further key of a holder no limit may be given.
    limits = {name: value for name, value in read_limits(form).items() if value not in (None, [])}
    values: dict[str, Any] = {"name": form.get("name", ""), "is_operator": is_operator} | limits
    values |= {name: form[name] for name in ("holder", "group") if form.get(name)}
    return decode(values | {"expires_at": read_day(form.get("expires_on", ""))}, NewKey)


def _read_changes(form: Mapping[str, str]) -> KeyChanges:
    values: dict[str, Any] = {"name": form.get("name", "")} | read_limits(form)
    if "group" in form:
        values["group"] = form["group"] or None
    # The form shows only the day. A key that ends within a day keeps its time, unless the day is changed.
    if form.get("expires_on", "") != form.get("expires_on_before", ""):
        values["expires_at"] = read_day(form.get("expires_on", ""))
    return decode(values, KeyChanges)
