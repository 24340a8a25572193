"""The live keys of a worker: the keys, the subjects of their limits, and the policies made from both."""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from app.db.live_keys import LiveKeyParts
from app.services.keys.keys import Key
from app.services.limits import Policy, Subject, make_policies
from app.yielding import PAUSE_S

_decode_keys = msgspec.json.Decoder(dict[bytes, Key]).decode
_decode_subjects = msgspec.json.Decoder(list[Subject]).decode


class LiveKeys(NamedTuple):
    """The keys and the limits at one moment.

    Attributes:
        keys: digest → key, for all keys that are not revoked and did not expire long ago.
        subjects: id → subject, for all holders and groups, and the gateway.
        policies: `holder_id` of a key → its limits; holders without any are missing.
    """

    keys: dict[bytes, Key]
    subjects: dict[str, Subject]
    policies: dict[str, Policy]


NO_KEYS = LiveKeys({}, {}, {})


def make_live_keys(keys: dict[bytes, Key], subjects: dict[str, Subject]) -> LiveKeys:
    """Returns the keys with the policies of these subjects. Other greenlets run in between."""
    return LiveKeys(keys, subjects, make_policies(subjects))


def decode_live_keys(found: LiveKeyParts) -> LiveKeys | None:
    """Returns the database's data; None if nothing has changed. Other greenlets run between the parts."""
    if found.key_parts is None or found.subject_parts is None:
        return None
    keys: dict[bytes, Key] = {}
    for part in found.key_parts:
        keys.update(_decode_keys(part))
        time.sleep(PAUSE_S)
    subjects: dict[str, Subject] = {}
    for part in found.subject_parts:
        subjects.update((subject.id, subject) for subject in _decode_subjects(part))
        time.sleep(PAUSE_S)
    return make_live_keys(keys, subjects)
