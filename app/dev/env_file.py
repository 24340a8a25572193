"""Puts a fresh gateway key into `.env.local`, the file where a developer's keys live."""

from __future__ import annotations

import os
from pathlib import Path

from app.config import ROOT, read_environment


def ensure_gateway_key(root: Path = ROOT) -> bool:
    """Makes a GATEWAY_API_KEY and appends it to `.env.local` when none is set anywhere; other lines stay.

    Returns:
        Whether one was made.
    """
    if read_environment(root).get("GATEWAY_API_KEY"):
        return False
    from app.services.keys import new_key

    path = root / ".env.local"
    before = path.read_text() if path.exists() else ""
    line_break = "" if not before or before.endswith("\n") else "\n"
    # The mode counts from the first byte on: the key must at no time be readable by others.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with open(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(f"{line_break}GATEWAY_API_KEY={new_key()}\n")
    return True
