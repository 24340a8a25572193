"""Reads and changes the file in which the workers of a host keep the live keys."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

from app.services.keys import digest_of
from app.snapshot_file import HEADER_BYTES


def read_header(file: Path) -> dict[str, Any]:
    """Returns the header of the file."""
    header: dict[str, Any] = json.loads(file.read_bytes()[:HEADER_BYTES])
    return header


def has_key(file: Path, key: str) -> bool:
    """Returns whether the file has this key."""
    return file.exists() and b64encode(digest_of(key)) in file.read_bytes()


def change_header(file: Path, **changes: Any) -> None:
    """Changes fields of the header, and nothing else of the file."""
    header = json.dumps(read_header(file) | changes).encode().ljust(HEADER_BYTES - 1) + b"\n"
    with file.open("r+b") as opened:
        opened.write(header)


def confirm_earlier(file: Path, seconds: float) -> None:
    """Moves the time at which the database confirmed the file back by so many seconds."""
    change_header(file, confirmed_at=int(read_header(file)["confirmed_at"] - seconds))
