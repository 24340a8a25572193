"""The navigation of all pages."""

from __future__ import annotations

from typing import NamedTuple


class Navigation(NamedTuple):
    """A link in the navigation.

    Attributes:
        path: its target, below the root of the gateway.
        title: its text.
        key: the letter that follows it after `g`.
        is_operators: whether it is only for operators.
    """

    path: str
    title: str
    key: str
    is_operators: bool = False


NAVIGATION = (
    Navigation("dashboard/", "Overview", "o"),
    Navigation("dashboard/activity", "Activity", "a"),
    Navigation("dashboard/models", "Models", "m"),
    Navigation("dashboard/playground", "Playground", "p"),
    Navigation("dashboard/keys", "Keys", "k"),
    Navigation("dashboard/routing", "Routing", "r"),
    Navigation("dashboard/health", "Health", "h"),
    Navigation("dashboard/bill", "Bill", "b", is_operators=True),
    Navigation("dashboard/integrity", "Integrity", "i", is_operators=True),
    Navigation("dashboard/settings", "Settings", "s", is_operators=True),
    Navigation("docs/", "Docs", "d"),
    Navigation("docs/api", "API", "c"),
)
