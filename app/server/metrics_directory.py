"""The directory through which the workers of one gateway share their metrics. gunicorn's main process locks it."""

from __future__ import annotations

import errno
import fcntl
import os
from itertools import count
from pathlib import Path
from typing import NamedTuple


class Claim(NamedTuple):
    """A directory that a gateway uses.

    Attributes:
        lock: the open descriptor that holds the lock; None if another gateway has it, so that both use the directory.
    """

    directory: Path
    lock: int | None


def claim_directory(wanted: Path, *, may_move: bool, held: Claim | None = None) -> Claim:
    """Creates the directory and locks it for as long as this process or one of its workers lives.

    Args:
        wanted: the directory.
        may_move: whether to take `<wanted>-1`, `<wanted>-2` … if another gateway uses it.
        held: the claim of this gateway from before a reload; kept if it is one that `wanted` could lead to.

    Raises:
        OSError: it cannot be written; `filename` is the directory.
    """
    if held is not None and (held.directory == wanted or (may_move and _is_moved(held.directory, wanted))):
        return held
    for number in count():
        directory = wanted if number == 0 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            lock = _make_and_lock(directory)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(directory)) from error
        if lock is not None or not may_move:
            return Claim(directory, lock)
    raise AssertionError("unreachable")


def _is_moved(directory: Path, wanted: Path) -> bool:
    name, _, number = directory.name.rpartition("-")
    return directory.parent == wanted.parent and name == wanted.name and number.isdigit()


def _make_and_lock(directory: Path) -> int | None:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
