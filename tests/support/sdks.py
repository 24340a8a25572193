"""The official SDKs, each imported when a test first uses it.

Their four thousand modules take three seconds of CPU time. Otherwise every process of a run would spend that while it
collects the tests, even if it runs none with an SDK.
"""

from __future__ import annotations

import importlib
from typing import Any


class Lazy:
    """A module that is imported at the first access to one of its attributes.

    Args:
        name: the module's full name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Returns an attribute of the module."""
        if attribute.startswith("_"):  # pytest looks up such attributes on every name in a test module.
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)


anthropic = Lazy("anthropic")
httpx2 = Lazy("httpx2")
openai = Lazy("openai")
