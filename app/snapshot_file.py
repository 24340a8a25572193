"""A host's file with data from the database, kept by its workers for one that starts while the database is away.

    {"version":2,"database":"…","fingerprint":"…","confirmed_at":1763800000}    padded to HEADER_BYTES, a line feed
    the content

Content is written to another file, which then takes the name, so a reader finds either the old or the new one. Only
`confirmed_at`, the Unix time at which the database last had exactly this content, is overwritten in place. It is in the
file and not the file's own time, because copies and backups have times of their own. Nothing waits for the disk: after
a power cut the file may be damaged, and then it is not used.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from app.logs import log_event

HEADER_BYTES = 256
# Below the 10 s between two checks by a worker, so that a host's only worker renews the time at each check.
CONFIRM_S = 5.0
# If a clock was set back by more than this, the time in the file is worthless.
_CLOCK_TOLERANCE_S = 5.0

Content = TypeVar("Content")


class FileUnusable(Exception):
    """The file is missing or must not be used; the text gives the reason."""


class Saved(NamedTuple, Generic[Content]):
    """The file's content, its fingerprint, and the Unix time at which the database last had exactly this."""

    content: Content
    fingerprint: str
    confirmed_at: float


class _Header(msgspec.Struct):
    version: int
    database: str
    fingerprint: str
    confirmed_at: int


_decode_header = msgspec.json.Decoder(_Header).decode


class SnapshotFile(Generic[Content]):
    """The file of one gateway, which all its workers read and write.

    Args:
        path: the file.
        database: identifies the database.
        version: the version of the content's format.
        max_bytes: a larger file is not the gateway's, and reading it would block the worker.
        encode: content → the bytes in the file.
        decode: the bytes → the content; raises msgspec.DecodeError or UnicodeDecodeError if they are damaged.
        logged_as: the beginning of the events in the log, as in "key_file".
    """

    def __init__(
        self,
        path: Path,
        database: str,
        *,
        version: int,
        max_bytes: int,
        encode: Callable[[Content], bytes],
        decode: Callable[[bytes], Content],
        logged_as: str,
    ) -> None:
        self.path = path
        self._next_path = path.with_name(f"{path.name}.new")
        self._database = database
        self._version = version
        self._max_bytes = max_bytes
        self._encode = encode
        self._decode = decode
        self._logged_as = logged_as
        self._is_verified = False
        self._has_failed = False

    def read(self, *, after: float, longest_age_s: float) -> Saved[Content] | None:
        """Returns the content; None if it was not confirmed after `after`, a Unix time.

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
                return Saved(self._read_content(descriptor), header.fingerprint, header.confirmed_at)
        except OSError as error:
            raise FileUnusable(f"it cannot be read ({error.strerror})") from None

    def save(self, fingerprint: str, content: Content, confirmed_at: float) -> bool:
        """Gives the file this content and time, unless another worker wrote newer ones. It never raises.

        A disk failure is logged once.

        Returns:
            False if another worker is writing the file, possibly with other content: then call this again soon.
        """
        header = _Header(self._version, self._database, fingerprint, int(confirmed_at))
        try:
            is_saved = self._confirm(header, content) or self._replace(header, content)
        except OSError as error:
            if not self._has_failed:
                reason = f"{self.path} cannot be written ({error.strerror})"
                log_event(f"{self._logged_as}_write_failed", level="warning", reason=reason)
            self._has_failed = True
            return True
        self._has_failed = False
        return is_saved

    def _confirm(self, header: _Header, content: Content) -> bool:
        """Renews the time of a file that has this content; returns whether the file may stay."""
        try:
            with self._open(os.O_RDWR) as descriptor:
                found = self._read_header(descriptor)
                if found.fingerprint != header.fingerprint:
                    return found.confirmed_at > header.confirmed_at
                if not self._is_verified:
                    # Once, because possibly only its beginning survived a power cut.
                    self._is_verified = self._read_content(descriptor) == content
                    if not self._is_verified:
                        return False
                if header.confirmed_at - found.confirmed_at >= CONFIRM_S:
                    os.pwrite(descriptor, _encode_header(header), 0)
                return True
        except (FileUnusable, FileNotFoundError):
            return False

    def _replace(self, header: _Header, content: Content) -> bool:
        """Writes a new file; returns False if another worker is doing so."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._next_path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another worker may have given the file its final name meanwhile.
            if not os.path.samestat(os.fstat(descriptor), os.stat(self._next_path)):
                return False
            try:
                _write(descriptor, _encode_header(header) + self._encode(content))
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
        # Does not follow links, and does not wait for the other end of a pipe.
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
        if header.version != self._version:
            raise FileUnusable(f"it has the format {header.version}, not {self._version}")
        if header.database != self._database:
            raise FileUnusable("it belongs to another DATABASE_URL")
        ahead_s = header.confirmed_at - time.time()
        if ahead_s > _CLOCK_TOLERANCE_S:
            raise FileUnusable(f"its time is {ahead_s:.0f} s in the future; was the clock set back?")
        return header

    def _read_content(self, descriptor: int) -> Content:
        size = os.fstat(descriptor).st_size
        if size > self._max_bytes:
            raise FileUnusable(f"it has {size} bytes, more than its content can have")
        try:
            return self._decode(os.pread(descriptor, size, HEADER_BYTES))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise FileUnusable("its content is damaged") from None


def _encode_header(header: _Header) -> bytes:
    return msgspec.json.encode(header).ljust(HEADER_BYTES - 1) + b"\n"


def _write(descriptor: int, content: bytes) -> None:
    os.fchmod(descriptor, 0o600)
    os.ftruncate(descriptor, 0)
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
