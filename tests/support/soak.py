"""The size of long tests: full counts under `make soak`, about a tenth under `make test`, and a third of examples."""

from __future__ import annotations

import os

FULL = bool(os.environ.get("SOAK"))


def soak_count(full: int) -> int:
    """Returns `full` under `make soak`, and a tenth of it, at least 1, otherwise."""
    return full if FULL else max(1, full // 10)


def examples(full: int) -> int:
    """Returns how many examples a property is tried with: `full` under `make soak`, and a third of it otherwise."""
    return full if FULL else full // 3
