"""Settings of the running gateway, read-only. They are changed in the environment or `.env.local`."""

from __future__ import annotations

from app.dashboard.frame import pages, require_operator, show
from app.services.health import get_setting_reports
from app.web import Response


@pages.get("/dashboard/settings")
def show_settings() -> Response:
    """Shows all settings with their sources; for secrets, only whether they are set."""
    require_operator()
    reports = get_setting_reports()
    changed = [report.name for report in reports if report.is_changed]
    return show("settings.html", "dashboard/settings", settings=reports, changed=changed)
