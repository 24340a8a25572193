"""Writes a new gateway key to `.env.local`, the file for a developer's keys."""

from __future__ import annotations

import os
from pathlib import Path

from app.config import ROOT, read_environment


def ensure_gateway_key(root: Path = ROOT) -> bool:
    """Appends a new GATEWAY_API_KEY to `.env.local` unless one is set, there or elsewhere.

    Args:
        root: the directory of `.env` and `.env.local`.

    Returns:
        Whether it made a key.
    """
    if read_environment(root).get("GATEWAY_API_KEY"):
        return False
    from app.services.keys import new_key

    path = root / ".env.local"
    before = path.read_text() if path.exists() else ""
    line_break = "" if not before or before.endswith("\n") else "\n"
    # The mode is set before the first byte is written, so that other users can never read the key.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(f"{line_break}GATEWAY_API_KEY={new_key()}\n")
    return True
