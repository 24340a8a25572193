"""Recognises a half-restored database, whose tables are filled one after the other.

While the table of keys is empty, a worker would refuse everybody, and while the table of holders is empty, it would
admit everybody without limits. No command empties these two tables: a revoked key keeps its row, and the gateway's own
row among the holders stays. A budget that has ended keeps its row too, and is deleted only with its holder or group, so
an empty table of budgets is no sign of a restore if these are gone as well. Otherwise an empty table is more likely
part of a restore than a change, and its earlier content remains valid for as long as in an outage. A key that is
revoked in a table with rows stops at once, whatever other tables are empty.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from app.config import KEYS_GRACE_S
from app.db.limit_tables import GATEWAY_ID
from app.logs import log_event
from app.services.keys.live_keys import NO_KEYS, LiveKeys
from app.yielding import with_pauses

_KEYS, _SUBJECTS, _BUDGETS = "api_key", "subject", "budget"
_NAMES = {_KEYS: "keys", _SUBJECTS: "holders", _BUDGETS: "budgets"}
# Checking this many keys takes about a millisecond.
_SLICE_ITEMS = 10_000


class Doubt:
    """Whether the last answer of the database is in doubt, and since when.

    Attributes:
        reason: the sign of a restore; None if the answer is believed.
        is_of_keys: whether the answer lacks keys, so that an unknown key may be valid.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.is_of_keys = False
        self._since_s = 0.0

    def judge(self, found: LiveKeys, empty: Collection[str], held: LiveKeys) -> LiveKeys | None:
        """Returns the data to use in place of a doubtful answer; None if the answer is to be believed.

        An answer without keys or budgets is believed after KEYS_GRACE_S, one without holders never.

        Args:
            found: the answer.
            empty: the names of the tables api_key, subject and budget that have no row at all.
            held: the current data.
        """
        is_over = self.reason is not None and time.monotonic() - self._since_s >= KEYS_GRACE_S
        reason = _find_reason(found, empty, NO_KEYS if is_over else held)
        if reason is None:
            if self.reason is not None:
                event = "empty_tables_believed" if is_over else "key_answer_believed"
                log_event(event, level="error" if is_over else "info", keys=len(found.keys), tables=sorted(empty))
            self.reason, self.is_of_keys = None, False
            return None
        if self.reason is None:
            self._since_s = time.monotonic()
            log_event(
                "key_answer_doubted",
                level="error",
                reason=reason,
                next_step="A restore fills tables one after the other. Meanwhile the gateway keeps the keys and limits"
                " that it had, for up to ten minutes. If no restore is running, begin one: docs/backup.md.",
            )
        self.reason, self.is_of_keys = reason, _KEYS in empty
        return _merge(found, empty, held)


def _find_reason(found: LiveKeys, empty: Collection[str], held: LiveKeys) -> str | None:
    """Returns the reason for doubting an answer; None without one. Other greenlets run in between."""
    had_rows = {
        _KEYS: held.keys,
        _SUBJECTS: True,  # A migration creates one, for the whole gateway.
        # A command that deletes a holder or a group also deletes its budgets.
        _BUDGETS: any(subject.budgets for id, subject in held.subjects.items() if id in found.subjects),
    }
    if lost := [_NAMES[table] for table, had in had_rows.items() if had and table in empty]:
        return f"it has no {' and no '.join(lost)}"
    holders = {key.holder_id for key in with_pauses(found.keys.values(), slice_items=_SLICE_ITEMS)}
    missing = holders - found.subjects.keys() - {""}
    return f"it lacks {len(missing)} holders of its keys" if missing else None


def _merge(found: LiveKeys, empty: Collection[str], held: LiveKeys) -> LiveKeys:
    """Returns the keys and limits of a doubtful answer as far as it has them, else the current ones.

    A key whose holder is unknown is left out, because it would have no limits; one without a holder has the gateway's.
    """
    # A copy, because lookups add keys to the current ones during the pauses.
    keys = held.keys.copy() if _KEYS in empty else found.keys
    limits = held if {_SUBJECTS, _BUDGETS} & set(empty) or _KEYS not in empty else found
    with_limits = {
        digest: key
        for digest, key in with_pauses(keys.items(), slice_items=_SLICE_ITEMS)
        if (key.holder_id or GATEWAY_ID) in limits.subjects
    }
    return LiveKeys(with_limits, limits.subjects, limits.policies)
