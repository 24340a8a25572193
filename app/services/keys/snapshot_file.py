"""The file in which a host's workers keep the live keys and their limits, for one that starts without the database.

    {"version":2,"database":"…","fingerprint":"…","confirmed_at":1763800000}    padded to HEADER_BYTES, a line feed
    {"keys":{"<base64 of a digest>":["<id>","<name>",null,"<holder>",false],…},"subjects":[["<id>","holder",…],…]}

It has digests and never keys. Content is written to another file, which then takes the name, so that a reader finds
either the old or the new one. `confirmed_at` alone, the Unix time at which the database last had exactly these keys, is
overwritten in place. It is in the file and not the file's own time, because copies and backups have times of their own.
Nothing waits for the disk: after a power cut the file may be damaged, and then it is not used.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from app.logs import log_event
from app.services.keys.keys import Key
from app.services.keys.live_keys import LiveKeys, make_live_keys
from app.services.limits import Subject

NAME = "keys.snapshot"
HEADER_BYTES = 256
# Below the 10 s between two looks of a worker, so that a worker alone on its host renews the time at each of them.
CONFIRM_S = 5.0
# A clock that was set back by more than this makes the time of the file worthless.
_CLOCK_TOLERANCE_S = 5.0
# A million keys. A larger file is not ours, and reading it would block the worker.
_MAX_BYTES = 128 * 1024 * 1024
_VERSION = 2


class FileUnusable(Exception):
    """The file is missing or must not be used; the text says why."""


class SavedKeys(NamedTuple):
    """The content of the file, and the Unix time at which the database last had exactly this."""

    content: LiveKeys
    confirmed_at: float


class _Header(msgspec.Struct):
    version: int
    database: str
    fingerprint: str
    confirmed_at: int


class _Content(msgspec.Struct):
    keys: dict[bytes, Key]
    subjects: list[Subject]


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_content = msgspec.json.Decoder(_Content).decode


class SnapshotFile:
    """The file of one gateway, which all its workers read and write.

    Args:
        directory: the directory of the journal.
        database: identifies the database of the keys.
    """

    def __init__(self, directory: Path, database: str) -> None:
        self.path = directory / NAME
        self._next_path = directory / f"{NAME}.new"
        self._database = database
        self._is_verified = False
        self._has_failed = False

    def read(self, *, after: float, longest_age_s: float) -> SavedKeys | None:
        """Returns the content; None if it was not confirmed later than at `after`, a Unix time.

        Raises:
            FileUnusable: there is no file, or it must not be used, for example because it was confirmed
                `longest_age_s` seconds ago.
        """
        try:
            with self._open(os.O_RDONLY) as descriptor:
                header = self._read_header(descriptor)
                if header.confirmed_at <= after:
                    return None
                age_s = time.time() - header.confirmed_at
                if age_s >= longest_age_s:
                    raise FileUnusable(f"the database confirmed it {age_s:.0f} s ago, which is too long")
                return SavedKeys(_read_content(descriptor), header.confirmed_at)
        except OSError as error:
            raise FileUnusable(f"it cannot be read ({error.strerror})") from None

    def save(self, fingerprint: str, content: LiveKeys, confirmed_at: float) -> bool:
        """Makes the file have this content and this time, unless another worker wrote a newer one. It never raises.

        If the disk fails, that is logged once.

        Returns:
            False if another worker is just writing the file, perhaps with another content: then call this again soon.
        """
        header = _Header(_VERSION, self._database, fingerprint, int(confirmed_at))
        try:
            is_saved = self._confirm(header, content) or self._replace(header, content)
        except OSError as error:
            if not self._has_failed:
                reason = f"{self.path} cannot be written ({error.strerror})"
                log_event("key_file_write_failed", level="warning", reason=reason)
            self._has_failed = True
            return True
        self._has_failed = False
        return is_saved

    def _confirm(self, header: _Header, content: LiveKeys) -> bool:
        """Renews the time of a file that has this content; returns whether the file may stay."""
        try:
            with self._open(os.O_RDWR) as descriptor:
                found = self._read_header(descriptor)
                if found.fingerprint != header.fingerprint:
                    return found.confirmed_at > header.confirmed_at
                if not self._is_verified:
                    # Once, because only its beginning may have survived a power cut.
                    self._is_verified = _read_content(descriptor) == content
                    if not self._is_verified:
                        return False
                if header.confirmed_at - found.confirmed_at >= CONFIRM_S:
                    os.pwrite(descriptor, _encode_header(header), 0)
                return True
        except (FileUnusable, FileNotFoundError):
            return False

    def _replace(self, header: _Header, content: LiveKeys) -> bool:
        """Writes a new file; returns False if another worker is doing that."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._next_path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another worker may have given the file its final name meanwhile.
            if not os.path.samestat(os.fstat(descriptor), os.stat(self._next_path)):
                return False
            try:
                saved = _Content(content.keys, list(content.subjects.values()))
                _write(descriptor, _encode_header(header) + msgspec.json.encode(saved))
            except OSError:
                self._next_path.unlink()  # A full disk needs the room.
                raise
            self._next_path.rename(self.path)
        except (BlockingIOError, FileNotFoundError):
            return False
        finally:
            os.close(descriptor)
        self._is_verified = True
        return True

    @contextmanager
    def _open(self, flags: int) -> Iterator[int]:
        """Yields a descriptor of the file.

        Raises:
            FileUnusable: another user could have written it.
            OSError: it is missing or cannot be opened.
        """
        # Without following links, and without waiting for the other end of a pipe.
        descriptor = os.open(self.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise FileUnusable("it is not a regular file")
            if state.st_uid != os.geteuid():
                raise FileUnusable(f"it belongs to another user (uid {state.st_uid})")
            if state.st_mode & 0o077:
                raise FileUnusable(f"other users have access to it (mode {stat.S_IMODE(state.st_mode):03o}, not 600)")
            yield descriptor
        finally:
            os.close(descriptor)

    def _read_header(self, descriptor: int) -> _Header:
        """Returns the header.

        Raises:
            FileUnusable: it is damaged, from another version or database, or from the future.
        """
        try:
            header = _decode_header(os.pread(descriptor, HEADER_BYTES, 0))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise FileUnusable("its header is damaged") from None
        if header.version != _VERSION:
            raise FileUnusable(f"it has the format {header.version}, not {_VERSION}")
        if header.database != self._database:
            raise FileUnusable("it is of another DATABASE_URL")
        ahead_s = header.confirmed_at - time.time()
        if ahead_s > _CLOCK_TOLERANCE_S:
            raise FileUnusable(f"its time is {ahead_s:.0f} s in the future; was the clock set back?")
        return header


def _encode_header(header: _Header) -> bytes:
    return msgspec.json.encode(header).ljust(HEADER_BYTES - 1) + b"\n"


def _read_content(descriptor: int) -> LiveKeys:
    size = os.fstat(descriptor).st_size
    if size > _MAX_BYTES:
        raise FileUnusable(f"it has {size} bytes, more than keys can take")
    try:
        content = _decode_content(os.pread(descriptor, size, HEADER_BYTES))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise FileUnusable("its content is damaged") from None
    return make_live_keys(content.keys, {subject.id: subject for subject in content.subjects})


def _write(descriptor: int, content: bytes) -> None:
    os.fchmod(descriptor, 0o600)
    os.ftruncate(descriptor, 0)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
