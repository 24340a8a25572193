"""`/api/keys`: operators make, change, rotate, list and revoke keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from flask import Blueprint, g
from msgspec import UNSET, UnsetType

from app.errors import BadRequest
from app.routes.inference import read_body
from app.services.administration import (
    DEFAULT_OVERLAP_S,
    KEY_STATES,
    KeyChanges,
    NewKey,
    change_key,
    create_key,
    find_idle_patterns,
    revoke_key,
    rotate_key,
    select_key_view,
    select_keys_page,
)
from app.services.models import peek_model_list
from app.services.providers import PROVIDERS, is_configured
from app.web import MAX_JSON_BYTES, NO_STORE, Response, decode_json, json_response, one_of, read_query

bp = Blueprint("keys", __name__)

MAX_PAGE_ROWS = 1_000
DEFAULT_PAGE_ROWS = 100


Body = TypeVar("Body", bound=msgspec.Struct)
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE_ROWS)]


class KeysQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/keys`: only some of the keys.

    Attributes:
        holder, group: of a holder, or of the holders of a group, by name or id.
        search: with this text in the key's name, its id or its holder's name.
        state: those that work, that have expired, or that were revoked.
    """

    holder: str | None = None
    group: str | None = None
    search: str | None = None
    state: Annotated[str, one_of(KEY_STATES)] | None = None
    limit: Limit | None = None
    cursor: str | None = None


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to rotate a key.

    Attributes:
        overlap_s: for how many seconds the old key works on.
        expires_at: from when on the new one does not work; by default as the old one.
    """

    overlap_s: int = DEFAULT_OVERLAP_S
    expires_at: datetime | None | UnsetType = UNSET


class NoQuery(msgspec.Struct, frozen=True):
    """A path that takes no parameters."""


def read_json(kind: type[Body]) -> Body:
    """Returns the body of this request as an instance of `kind`, and checks that there is no query.

    Raises:
        BadRequest: the body does not have the form of `kind`, or there is a query.
    """
    read_query(NoQuery)
    return decode_json(read_body(MAX_JSON_BYTES), kind)


def read_changes(kind: type[Body]) -> Body:
    """Returns the body of this request like `read_json`.

    Raises:
        BadRequest: as for `read_json`, or it changes nothing.
    """
    changes = read_json(kind)
    if all(getattr(changes, name) is UNSET for name in kind.__struct_fields__):
        fields = ", ".join(kind.__struct_encode_fields__)
        raise BadRequest(f"The body names nothing to change. The fields are: {fields}.", code="nothing_to_change")
    return changes


def respond(kind: str, data: Any, *, status: int = 200, warnings: list[str] | None = None, **others: Any) -> Response:
    """Returns one object as JSON.

    Args:
        kind: the kind of object, for the field `object`.
        data: the object.
        status: the status of the response.
        warnings: possible mistakes in the request.
        others: further fields in addition to `data`.
    """
    body = {"object": kind, "data": data, **others} | ({"warnings": warnings} if warnings else {})
    return json_response(body, status=status, headers=NO_STORE)


def warn_of_patterns(patterns: tuple[str, ...] | UnsetType) -> list[str]:
    """Returns a warning of the patterns that match no model; none if this process lacks the list of a provider.

    Called before a change, so that nothing can fail after it.
    """
    if not patterns or isinstance(patterns, UnsetType):
        return []
    lists = {name: peek_model_list(provider) for name, provider in PROVIDERS.items() if is_configured(provider)}
    if not lists or any(each is None for each in lists.values()):
        return []
    names = (f"{provider}/{model.id}" for provider, each in lists.items() for model in each or ())
    idle = ", ".join(repr(pattern) for pattern in find_idle_patterns(patterns, names))
    return [f"No model of the configured providers is matched by {idle}."] if idle else []


@bp.get("/api/keys")
def list_keys() -> Response:
    """Returns a page of keys, newest first, revoked ones too."""
    query = read_query(KeysQuery)
    limit = query.limit or DEFAULT_PAGE_ROWS
    page = select_keys_page(
        holder=query.holder,
        group=query.group,
        search=query.search,
        state=query.state,
        cursor=query.cursor,
        limit=limit,
    )
    return json_response(page, headers=NO_STORE)


@bp.post("/api/keys")
def make_key() -> Response:
    """Makes a key. Its secret, `key`, is in this response and nowhere else."""
    wanted = read_json(NewKey)
    warnings = warn_of_patterns(wanted.models)
    made = create_key(g.key.id, wanted)
    return respond("key", made.data, status=201, warnings=warnings + made.warnings, key=made.key)


@bp.get("/api/keys/<id>")
def show_key(id: str) -> Response:
    """Returns a key with its limits."""
    read_query(NoQuery)
    return respond("key", select_key_view(id))


@bp.patch("/api/keys/<id>")
def patch_key(id: str) -> Response:
    """Changes a key and its holder: fields that are absent stay, and null takes a limit away."""
    changes = read_changes(KeyChanges)
    warnings = warn_of_patterns(changes.models)
    changed = change_key(g.key.id, id, changes)
    if changes.expires_at is None:
        warnings += changed.warn_if_endless()
    return respond("key", changed, warnings=warnings)


@bp.delete("/api/keys/<id>")
def delete_key(id: str) -> Response:
    """Revokes a key; a second call changes nothing."""
    read_query(NoQuery)
    return respond("key", revoke_key(g.key.id, id))


@bp.post("/api/keys/<id>/rotate")
def replace_key(id: str) -> Response:
    """Makes a key that replaces this one, which expires after an overlap."""
    wanted = read_json(Rotation)
    made = rotate_key(g.key.id, id, wanted.overlap_s, wanted.expires_at)
    return respond("key", made.data, status=201, key=made.key)
