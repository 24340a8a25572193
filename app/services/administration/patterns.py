"""Model patterns that match nothing, which is usually a mistake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.services.limits import matches
from app.yielding import with_pauses


def find_idle_patterns(patterns: Sequence[str], models: Iterable[str]) -> list[str]:
    """Returns the patterns that match no model, by the same comparison as `Policy.allows`.

    Args:
        patterns: patterns of `provider/model id`.
        models: all models, as `provider/model id`. Other greenlets run in between.
    """
    idle = list(patterns)
    for model in with_pauses(models):
        if not idle:
            break
        name = model.lower()
        idle = [pattern for pattern in idle if not matches(pattern, name)]
    return idle
