"""Finds the compiled way of streamed events, which `make speedups` builds from speedups/, if it is there and wanted.

It does the same as the Python beside it, which is what one reads and which serves wherever this is not installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Protocol

from app.config import Settings

# Counted up, here and in the compiled module, with each change of what the two expect of each other.
FACE = 1

_MODULE = "gateway_speedups"


class Speedups(Protocol):
    """The compiled module.

    Attributes:
        FACE: as above.
        RECEIVE_BYTES, LONGEST: the constants of the same names in Python.
        Passage: makes what `Passage` (services/streaming/passage.py) is in Python; see `make_passage` there.
        serve_some: the inner loop of `PacedSockets` (upstream/ready_sockets.py).
    """

    FACE: int
    RECEIVE_BYTES: int
    LONGEST: int
    Passage: Callable[..., Any]
    serve_some: Callable[..., int]


class Finding(NamedTuple):
    """The module if it may be used, or why the one that is installed may not; neither if none is installed."""

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
    return Finding(module) if face == FACE else Finding(problem=f"belongs to other code (face {face}, not {FACE})")


def get_speedups(settings: Settings) -> Speedups | None:
    """Returns the compiled module if it may be used and COMPILED_EVENTS has not switched it off."""
    return find_speedups().speedups if settings.compiled_events else None
