"""The file with the live keys and their limits that a host's workers keep: only digests, never keys.

{"keys":{"<base64 of a digest>":["<id>","<name>",null,"<holder>",false],…},"subjects":[["<id>","holder",…],…]}
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from app.services.keys.keys import Key
from app.services.keys.live_keys import LiveKeys, make_live_keys
from app.services.limits import Subject
from app.snapshot_file import SnapshotFile

NAME = "keys.snapshot"
# A million keys.
_MAX_BYTES = 128 * 1024 * 1024
_VERSION = 2


class _Content(msgspec.Struct):
    keys: dict[bytes, Key]
    subjects: list[Subject]


_decode_content = msgspec.json.Decoder(_Content).decode


class KeyFile(SnapshotFile[LiveKeys]):
    """The file of one gateway.

    Args:
        directory: the directory of the journal.
        database: identifies the database of the keys.
    """

    def __init__(self, directory: Path, database: str) -> None:
        super().__init__(
            directory / NAME,
            database,
            version=_VERSION,
            max_bytes=_MAX_BYTES,
            encode=_encode,
            decode=_decode,
            logged_as="key_file",
        )


def _encode(content: LiveKeys) -> bytes:
    return msgspec.json.encode(_Content(content.keys, list(content.subjects.values())))


def _decode(saved: bytes) -> LiveKeys:
    content = _decode_content(saved)
    return make_live_keys(content.keys, {subject.id: subject for subject in content.subjects})
