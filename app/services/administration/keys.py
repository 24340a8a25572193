"""Creates, changes, rotates and revokes keys. Limits belong to the holder, so several keys can share them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.db import Connection, write_connection
from app.db.clock import select_now
from app.db.keys import (
    KeyRow,
    insert_key,
    update_key,
    update_key_revoked,
)
from app.db.subjects import select_subject
from app.errors import BadRequest, Conflict
from app.services.administration.audit import record_change
from app.services.administration.changes import KeyChanges, NewKey
from app.services.administration.holders import change_holder_of_key, find_or_make_holder, make_holder
from app.services.administration.key_lists import find_key, make_key_view
from app.services.administration.limits import validate_name
from app.services.administration.views import KeyView
from app.services.keys import digest_of, new_key

DEFAULT_OVERLAP_S = 86_400
MAX_OVERLAP_S = 366 * 86_400


class MadeKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key: `key` is what its caller sends, which cannot be read again; `warnings` say what may be a mistake."""

    key: str
    data: KeyView
    warnings: list[str] = []


def create_key(actor: str, wanted: NewKey) -> MadeKey:
    """Creates a key, and its holder if limits or a group are given for one that does not exist.

    Args:
        actor: who makes the change, for the audit.
        wanted: the key.

    Raises:
        BadRequest: a value makes no sense.
        NotFound: there is no such group, or no such holder and no limit for a new one.
        Conflict: the new holder would have another one's name.
        DatabaseError: the database is unavailable or slow.
    """
    name = validate_name(wanted.name)
    if wanted.is_operator and (wanted.holder is not UNSET or wanted.sets_limits()):
        raise BadRequest(
            "An operator's key is bound by the limits of the gateway alone, so leave out its holder, group and limits.",
            param="is_operator",
        )
    with write_connection() as connection:
        expires_at = _validate_expiry(connection, wanted.expires_at)
        holder_id, is_new = find_or_make_holder(connection, actor, wanted.holder, name, wanted)
        named = "" if isinstance(wanted.holder, UnsetType) else wanted.holder
        warnings = [f"There was no holder {named!r}, so a new one was made."] if is_new and named else []
        values = {"name": name, "holder_id": holder_id, "expires_at": expires_at, "is_operator": wanted.is_operator}
        secret, row = _insert(connection, actor, "key.create", values)
        return MadeKey(key=secret, data=make_key_view(connection, row), warnings=warnings)


def change_key(actor: str, id: str, changes: KeyChanges, *, keep_budgets: bool = False) -> KeyView:
    """Changes a key and its holder, and returns it. A key without a holder gets one with its name if limits are set.

    Args:
        actor: who makes the change, for the audit.
        id: the key.
        changes: the changes.
        keep_budgets: whether budgets that `changes` does not name stay.

    Raises:
        NotFound: there is no such key or group.
        BadRequest, Conflict, DatabaseError: as for `create_key`; a revoked key gets no new expiry.
    """
    with write_connection() as connection:
        row = find_key(connection, id, lock=True)
        values: dict[str, Any] = {}
        if not isinstance(changes.name, UnsetType):
            values["name"] = validate_name(changes.name)
        if not isinstance(changes.expires_at, UnsetType):
            if row.revoked_at is not None:
                raise _make_revoked(row, "it has no expiry that could be changed")
            values["expires_at"] = _validate_expiry(connection, changes.expires_at)
        if changes.has_limits():
            if row.is_operator and changes.sets_limits():
                raise BadRequest(
                    "An operator's key is bound by the limits of the gateway alone, so it has no group and no limits."
                    " Change those of the gateway, or make a key that is not an operator's."
                )
            if row.holder_id is not None:
                change_holder_of_key(connection, actor, row.holder_id, changes, keep_budgets=keep_budgets)
            elif changes.sets_limits():
                values["holder_id"] = make_holder(connection, actor, values.get("name", row.name), changes).id
        now = update_key(connection, id, values) if values else row
        record_change(
            connection, actor, "key.change", f"key:{id}", _describe(connection, row), _describe(connection, now)
        )
        return make_key_view(connection, now)


def rotate_key(
    actor: str, id: str, overlap_s: int = DEFAULT_OVERLAP_S, expires_at: datetime | None | UnsetType = UNSET
) -> MadeKey:
    """Creates a replacement for a key: with the same name, the same holder and so its limits, and the same rights.

    Args:
        actor: who makes the change, for the audit.
        id: the old key.
        overlap_s: how long the old key still works, but no longer than it would have anyway.
        expires_at: the time from which on the new key does not work, None for never; by default that of the old key, so
            that nobody gets access for longer than was decided.

    Raises:
        NotFound: there is no such key.
        Conflict: it is revoked, has expired, or was rotated before.
        BadRequest: the times make no sense.
        DatabaseError: the database is unavailable or slow.
    """
    if not 0 <= overlap_s <= MAX_OVERLAP_S:
        raise BadRequest(f"The overlap must be from 0 s to {MAX_OVERLAP_S // 86_400} days.", param="overlap_s")
    with write_connection() as connection:
        row, now = find_key(connection, id, lock=True), select_now(connection)
        if row.revoked_at is not None:
            raise _make_revoked(row, "it cannot be rotated")
        if row.replaced_by is not None:
            raise Conflict(f"The key {id} was rotated already. Rotate the one that replaces it, {row.replaced_by}.")
        if row.expires_at is not None and row.expires_at <= now:
            raise Conflict(f"The key {id} has expired, so there is nothing to overlap with. Make a new key.")
        own_expiry = row.expires_at if isinstance(expires_at, UnsetType) else _validate_expiry(connection, expires_at)
        values = {
            "name": row.name,
            "holder_id": row.holder_id,
            "expires_at": own_expiry,
            "is_operator": row.is_operator,
        }
        secret, made = _insert(connection, actor, "key.create", values)
        end = (now + timedelta(seconds=overlap_s)).replace(microsecond=0)
        end = end if row.expires_at is None else min(end, row.expires_at)
        old = update_key(connection, id, {"replaced_by": made.id, "expires_at": end})
        before, after = _describe(connection, row), _describe(connection, old)
        record_change(connection, actor, "key.rotate", f"key:{id}", before, after)
        return MadeKey(key=secret, data=make_key_view(connection, made))


def revoke_key(actor: str, id: str) -> KeyView:
    """Revokes a key and returns it; a second call changes nothing. Its holder stays, with its limits.

    Raises:
        NotFound: there is no such key.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = find_key(connection, id, lock=True)
        now = update_key_revoked(connection, id)
        assert now is not None
        record_change(
            connection, actor, "key.revoke", f"key:{id}", _describe(connection, row), _describe(connection, now)
        )
        return make_key_view(connection, now)


def _insert(connection: Connection, actor: str, action: str, values: dict[str, Any]) -> tuple[str, KeyRow]:
    secret = new_key()
    row = insert_key(connection, id=secret.split("_")[1], digest=digest_of(secret), last_four=secret[-4:], **values)
    record_change(connection, actor, action, f"key:{row.id}", None, _describe(connection, row))
    return secret, row


def _make_revoked(row: KeyRow, consequence: str) -> Conflict:
    return Conflict(f"The key {row.id} is revoked, so {consequence}. Make a new key.", code="key_revoked")


def _validate_expiry(connection: Connection, expires_at: datetime | None) -> datetime | None:
    """Returns the expiry of a key in whole seconds; a time without an offset is UTC.

    Raises:
        BadRequest: it is in the past, or cannot be expressed in UTC.
    """
    if expires_at is None:
        return None
    try:
        moment = expires_at.replace(tzinfo=UTC) if expires_at.tzinfo is None else expires_at.astimezone(UTC)
    except OverflowError:
        raise BadRequest(
            f"The expiry {expires_at.isoformat()} is not in the years 1 to 9999 of UTC. Give an earlier or a later one,"
            " or none.",
            param="expires_at",
        ) from None
    if moment <= select_now(connection):
        raise BadRequest(
            f"The expiry {moment:%Y-%m-%dT%H:%M:%SZ} is over. Give one in the future; to end a key now, revoke it.",
            param="expires_at",
        )
    return moment.replace(microsecond=0)


def _describe(connection: Connection, row: KeyRow) -> dict[str, Any]:
    holder = None if row.holder_id is None else select_subject(connection, id=row.holder_id, lock=False)
    return {
        "name": row.name,
        "holder": None if holder is None else holder.name,
        "is_operator": row.is_operator,
        "expires_at": None if row.expires_at is None else row.expires_at.isoformat(),
        "revoked_at": None if row.revoked_at is None else row.revoked_at.isoformat(),
        "replaced_by": row.replaced_by,
    }
