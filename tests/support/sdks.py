"""The official SDKs, each imported when a test first uses it.

Their four thousand modules take three seconds of CPU time, which otherwise every process of a run would pay while it
collects the tests, also those that run none with an SDK.
"""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """A module that is imported when something of it is first asked for.

    Args:
        name: the module's full name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Returns what the module has under that name."""
        if attribute.startswith("_"):  # pytest asks every name of a test module whether it is a test or a double.
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


anthropic = Lazy("anthropic")
httpx2 = Lazy("httpx2")
openai = Lazy("openai")
