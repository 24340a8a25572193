"""The directory through which the workers of one gateway share their metrics. gunicorn's main process locks it."""

from __future__ import annotations

import errno
import fcntl
import os
from itertools import count
from pathlib import Path


def claim_directory(wanted: Path, *, may_move: bool) -> tuple[Path, bool]:
    """Makes the directory and locks it, for as long as this process or one of its workers lives.

    Args:
        wanted: the directory.
        may_move: whether to take `<wanted>-1`, `<wanted>-2` … if another gateway uses it.

    Returns:
        The directory, and whether this gateway alone uses it.

    Raises:
        OSError: it cannot be written; `filename` is the directory.
    """
    for number in count():
        directory = wanted if number == 0 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            is_locked = _make_and_lock(directory)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(directory)) from error
        if is_locked or not may_move:
            return directory, is_locked
    raise AssertionError("unreachable")


def _make_and_lock(directory: Path) -> bool:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True  # The descriptor stays open, also when gunicorn reloads, and holds the lock.
