"""The version of this code: a number, and a digest of the files, which nobody can forget to change."""

from __future__ import annotations

import hashlib
from functools import cache

from app.config import ROOT

# As in pyproject.toml.
VERSION = "0.1.0"

_DIGEST_DIGITS = 12


@cache
def compute_digest() -> str:
    """Returns a digest of the gateway's code, from its files; gunicorn's main process computes it for its workers."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "app").rglob("*.py")):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGEST_DIGITS]


def get_version() -> str:
    """Returns the version in the form of logs and `/health`, such as `0.1.0+1f0c0ffee123`."""
    return f"{VERSION}+{compute_digest()}"
