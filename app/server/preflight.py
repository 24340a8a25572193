"""The checks before the gateway starts. gunicorn's main process runs them once, in a child process."""

from __future__ import annotations

from app.config import Settings
from app.logs import log_event
from app.runtime import use_settings
from app.services.health import CHECKS


def find_boot_problem(settings: Settings) -> str | None:
    """Returns the reason not to start, in one sentence, or None. Problems that do not block the start are logged."""
    use_settings(settings)
    for check in CHECKS:
        finding = check.run() if check.at_boot else None
        if finding is None or finding.problem is None:
            continue
        if finding.blocks == "boot":
            return finding.problem
        log_event("boot_check_failed", level="warning", check=check.name, reason=finding.problem[:300])
    return None
