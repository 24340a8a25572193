"""Finds the compiled path for streamed events, built by `make speedups` from speedups/, if it is there and enabled.

It does the same as the Python code beside it, which people read and which runs wherever this is not installed.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

from app.config import ROOT, Settings

# Incremented, here and in the compiled module, with each change of the interface between the two.
FACE = 1

_MODULE = "gateway_speedups"
_SOURCE = ROOT / "speedups" / "gateway_speedups.c"


class Speedups(Protocol):
    """The compiled module.

    Attributes:
        FACE: as above.
        SOURCE_DIGEST: the SHA-256 of the source that it was built from, in hexadecimal digits.
        RECEIVE_BYTES, LONGEST: the constants of the same names in Python.
        Passage: makes the compiled form of `Passage` (services/streaming/passage.py); see `make_passage` there.
        serve_some: the inner loop of `PacedSockets` (upstream/ready_sockets.py).
    """

    FACE: int
    SOURCE_DIGEST: str
    RECEIVE_BYTES: int
    LONGEST: int
    Passage: Callable[..., Any]
    serve_some: Callable[..., int]


class Finding(NamedTuple):
    """The module if it may be used, or why the installed one may not; neither if none is installed."""

    speedups: Speedups | None = None
    problem: str | None = None


@cache
def find_speedups() -> Finding:
    """Loads the compiled module, if it is installed and belongs to this code."""
    try:
        module: Any = importlib.import_module(_MODULE)
    except ModuleNotFoundError:
        return Finding()
    except ImportError as error:
        return Finding(problem=f"cannot be loaded ({error})")
    face = getattr(module, "FACE", None)
    if face != FACE:
        return Finding(problem=f"belongs to other code (face {face}, not {FACE})")
    digest = _read_source_digest()
    if digest is not None and getattr(module, "SOURCE_DIGEST", None) != digest:
        return Finding(problem="was built from another source")
    return Finding(module)


def _read_source_digest() -> str | None:
    """Returns the digest of the source for this code; None if only the module is installed here."""
    try:
        return hashlib.sha256(_SOURCE.read_bytes()).hexdigest()
    except OSError:
        return None


def get_speedups(settings: Settings) -> Speedups | None:
    """Returns the compiled module if it may be used and COMPILED_EVENTS has not switched it off."""
    return find_speedups().speedups if settings.compiled_events else None
