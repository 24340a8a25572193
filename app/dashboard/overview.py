"""Overview: what happened lately, at a glance; every number leads to the requests behind it."""

from __future__ import annotations

from app.dashboard.frame import pages, show
from app.web import Response


@pages.get("/dashboard/")
def show_overview() -> Response:
    """Shows the figures of a window of time."""
    return show("overview.html", "dashboard/")
