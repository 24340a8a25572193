"""Metric labels that callers and providers choose, and the bounds on their number.

Callers can choose model names, so only models that a provider has served get a series, and at most MAX_MODELS. A
provider's error code gets one only if it has the form of a name, because it may quote the caller's input.
"""

from __future__ import annotations

import re

from app.logs import redact
from app.runtime import Component, Runtime

# More models than the users of a gateway use, and few enough series for Prometheus.
MAX_MODELS = 200
# The gateway itself has some twenty codes; providers may send codes of their own.
MAX_ERRORS = 100
_ERROR_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,49}|[0-9]{1,5}")


class ForeignLabels(Component):
    """The label values that providers and callers choose, kept to bound their number."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._models: set[str] = set()
        self._errors: set[str] = set()

    def bound_model(self, model: str) -> str:
        """Returns the label of a model, "other" once MAX_MODELS are known."""
        return _bound(self._models, MAX_MODELS, model)

    def bound_error(self, error: str) -> str:
        """Returns the label of an error, "other" for a text and once MAX_ERRORS are known."""
        if error not in self._errors and not _ERROR_NAME.fullmatch(error):
            return "other"
        return _bound(self._errors, MAX_ERRORS, error)


def _bound(known: set[str], most: int, label: str) -> str:
    if label not in known:
        label = redact(label)
        if label not in known and len(known) >= most:
            return "other"
        known.add(label)
    return label
