"""Holders of keys: made with the first key that needs one, and kept when their last key is revoked."""

from __future__ import annotations

from typing import Any

from msgspec import UnsetType

from app.db import Connection
from app.db.subjects import SubjectRow, insert_subject, select_subject
from app.errors import BadRequest, NotFound
from app.services.administration.changes import HolderChanges
from app.services.administration.groups import find_group
from app.services.administration.ids import make_id
from app.services.administration.limits import apply_limits, check_name, make_name_conflict


def find_or_make_holder(
    connection: Connection, actor: str, holder: str | UnsetType, key_name: str, changes: HolderChanges
) -> tuple[str | None, bool]:
    """Returns the id of the holder of a new key, None if the key needs none, and whether it was made now.

    Args:
        connection: in a transaction.
        actor: who makes the key.
        holder: the name of the holder; if it is absent, a new one gets the name of the key.
        key_name: the name of the key.
        changes: the group and the limits of a new holder.

    Raises:
        BadRequest: limits are given for a holder that exists, or make no sense.
        Conflict: limits are given without a holder, and there is one with the name of the key.
        NotFound: there is no such group, or no such holder and no limit for a new one.
    """
    if isinstance(holder, UnsetType):
        return (make_holder(connection, actor, key_name, changes).id, True) if changes.sets_limits() else (None, False)
    found = select_subject(connection, kind="holder", name=check_name(holder), lock=False)
    if found is None:
        if not changes.sets_limits():
            # More likely a typing error than the wish for a holder who may use everything.
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
        Conflict: there is one.
    """
    row = insert_subject(connection, id=make_id(), kind="holder", name=name, **_find_columns(connection, changes))
    if row is None:
        raise make_name_conflict("holder", name, f"To give {name!r} a further key, name it as the holder.")
    return apply_limits(connection, actor, row, changes, is_new=True)


def change_holder(
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
