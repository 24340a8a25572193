"""Holders of keys: created with the first key that needs one or earlier, and kept after their last key is revoked."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from app.db import Connection, write_connection
from app.db.budgets import delete_budgets
from app.db.keys import update_key
from app.db.subjects import SubjectRow, delete_subject, insert_subject, select_subject
from app.errors import BadRequest, NotFound
from app.services.administration.audit import record_change
from app.services.administration.changes import HolderChanges
from app.services.administration.groups import find_group
from app.services.administration.holder_lists import find_holder, make_holder_view
from app.services.administration.limits import apply_limits, describe_subject, make_name_conflict, validate_name
from app.services.administration.views import HolderView
from app.services.keys import make_id


class NewHolder(HolderChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A holder to be made, without a key."""

    name: str


class HolderPatch(HolderChanges, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change of a holder, with its name; fields that are absent stay."""

    name: str | UnsetType = UNSET


def find_or_make_holder(
    connection: Connection, actor: str, holder: str | UnsetType, key_name: str, changes: HolderChanges
) -> tuple[str | None, bool]:
    """Returns the id of a new key's holder, None if the key needs none, and whether the holder is new.

    Args:
        connection: in a transaction.
        actor: who makes the change.
        holder: the name of the holder; if it is absent, a new one gets the name of the key.
        key_name: the name of the key.
        changes: the group and the limits of a new holder.

    Raises:
        BadRequest: limits are given for an existing holder, or make no sense.
        Conflict: limits are given without a holder, and a holder has the name of the key.
        NotFound: there is no such group, or no such holder and no limit for a new one.
    """
    if isinstance(holder, UnsetType):
        return (make_holder(connection, actor, key_name, changes).id, True) if changes.sets_limits() else (None, False)
    # Locked, so that the holder is not deleted meanwhile.
    found = select_subject(connection, kind="holder", name=validate_name(holder), lock=True)
    if found is None:
        if not changes.sets_limits():
            # More likely a typing error than the wish for a holder without any limits.
            raise NotFound(
                f"There is no holder {holder!r}. Correct the name; to make a new holder, give its group or its limits"
                " with its first key.",
                param="holder",
                code="unknown_holder",
            )
        return make_holder(connection, actor, holder, changes).id, True
    if changes.sets_limits():
        raise BadRequest(
            f"The holder {holder!r} exists, and all its keys share its limits. Leave the group and the limits out to"
            " give it a further key, or change them with a change of one of its keys.",
            param="holder",
            code="holder_exists",
        )
    return found.id, False


def make_holder(connection: Connection, actor: str, name: str, changes: HolderChanges) -> SubjectRow:
    """Makes a holder with this name, group and limits.

    Raises:
        BadRequest, NotFound: as in `find_or_make_holder`.
        Conflict: it exists already.
    """
    row = insert_subject(connection, id=make_id(), kind="holder", name=name, **_find_columns(connection, changes))
    if row is None:
        raise make_name_conflict("holder", name, f"To give {name!r} a further key, name it as the holder.")
    return apply_limits(connection, actor, row, changes, is_new=True)


def change_holder_of_key(
    connection: Connection, actor: str, id: str, changes: HolderChanges, *, keep_budgets: bool
) -> SubjectRow:
    """Changes a holder and returns it.

    Raises:
        BadRequest, NotFound: as in `find_or_make_holder`.
    """
    row = select_subject(connection, id=id, lock=True)
    assert row is not None, "holders stay"
    columns = _find_columns(connection, changes)
    return apply_limits(connection, actor, row, changes, columns=columns, keep_budgets=keep_budgets)


def _find_columns(connection: Connection, changes: HolderChanges) -> dict[str, Any]:
    if isinstance(changes.group, UnsetType):
        return {}
    # Locked, so that the group is not deleted meanwhile.
    return {"group_id": None if changes.group is None else find_group(connection, changes.group, lock=True).id}


def create_holder(actor: str, wanted: NewHolder) -> HolderView:
    """Makes a holder without a key, and returns it.

    Args:
        actor: who makes the change, for the audit.
        wanted: the holder.

    Raises:
        BadRequest: a value makes no sense.
        NotFound: there is no such group.
        Conflict: there is a holder of this name.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        return make_holder_view(connection, make_holder(connection, actor, validate_name(wanted.name), wanted))


def change_holder(actor: str, name_or_id: str, changes: HolderPatch, *, keep_budgets: bool = False) -> HolderView:
    """Changes a holder, for instance its name, and returns it.

    Args:
        actor: who makes the change, for the audit.
        name_or_id: which holder.
        changes: the changes.
        keep_budgets: whether budgets that `changes` does not name stay.

    Raises:
        NotFound: there is no such holder or group.
        BadRequest, Conflict, DatabaseError: as for `create_holder`.
    """
    with write_connection() as connection:
        row = find_holder(connection, name_or_id, lock=True)
        columns = _find_columns(connection, changes)
        if not isinstance(changes.name, UnsetType):
            columns["name"] = validate_name(changes.name)
        return make_holder_view(
            connection, apply_limits(connection, actor, row, changes, columns=columns, keep_budgets=keep_budgets)
        )


def delete_holder(actor: str, name_or_id: str) -> HolderView:
    """Deletes a holder whose keys are all revoked, with its budgets, and returns it. Its keys then have no holder.

    Raises:
        NotFound: there is no such holder.
        Conflict: it has a key that is not revoked.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = find_holder(connection, name_or_id, lock=True)
        view = make_holder_view(connection, row)
        view.raise_if_has_keys()
        before = describe_subject(connection, row)
        for key in view.keys:
            update_key(connection, key.id, {"holder_id": None})
            held, none = [{"name": key.name, "holder": holder} for holder in (row.name, None)]
            record_change(connection, actor, "key.change", f"key:{key.id}", held, none)
        delete_budgets(connection, row.id)
        delete_subject(connection, row.id)
        record_change(connection, actor, "holder.delete", f"holder:{row.id}", before, None)
        return view
