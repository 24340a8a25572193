"""The boot of its host in which a worker ran. After a later boot, lines that it wrote may be missing.

A worker notes it in its directory before the directory gets its name, because it may draw from budgets and be killed
before it is registered. The note needs no flush to the disk: after a power cut that loses it, either the registry knows
the boot or nobody does, and both mean that lines may be missing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_NOTE = "boot"
# Linux changes it at each boot.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_boot_id() -> str:
    """Returns the id of the kernel's current boot, or "" where the system has none."""
    return _read(_BOOT_ID)


def write_boot_note(directory: Path) -> None:
    """Notes the current boot in the directory of a worker that runs in it."""
    with suppress(OSError):  # On a full disk, only the registry has it.
        descriptor = os.open(directory / _NOTE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, read_boot_id().encode())
        finally:
            os.close(descriptor)


def read_boot_note(directory: Path) -> str:
    """Returns the boot noted in a dead worker's directory; "" without a note, as from earlier versions."""
    return _read(directory / _NOTE)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
