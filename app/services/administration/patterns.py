"""Patterns of models that match nothing, which are mistakes in most cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from app.yielding import with_pauses


def find_idle_patterns(patterns: Sequence[str], models: Iterable[str]) -> list[str]:
    """Returns those of the patterns that match no model, compared as `Policy.allows` compares them.

    Args:
        patterns: of `provider/model id`.
        models: all models, as `provider/model id`. Other greenlets run in between.
    """
    idle = {pattern: pattern.lower() for pattern in patterns}
    for model in with_pauses(models):
        if not idle:
            break
        name = model.lower()
        idle = {pattern: lower for pattern, lower in idle.items() if not fnmatchcase(name, lower)}
    return list(idle)
