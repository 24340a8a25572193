"""The settings of `make run` for `bin/gateway` in another shell, in `var/run.json` while it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from app.config import ROOT, setting_names

# The providers' key while the sandbox stands in for them. It is obviously no real key, and the sandbox accepts any.
SANDBOX_KEY = "sandbox"

_FILE = "var/run.json"


def write_run_file(chosen: Mapping[str, str], root: Path = ROOT) -> None:
    """Writes settings that another shell cannot see, for this user alone: those of this environment, and `chosen`.

    Args:
        chosen: name → text.
        root: the directory of the project.
    """
    settings = {name: os.environ[name] for name in setting_names() if os.environ.get(name, "").strip()}
    path = root / _FILE
    path.unlink(missing_ok=True)
    # The mode is set before the first byte is written, because an address may contain a password.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        json.dump({"pid": os.getpid(), "settings": settings | dict(chosen)}, file)


def remove_run_file(root: Path = ROOT) -> None:
    """Removes the file from `write_run_file`."""
    (root / _FILE).unlink(missing_ok=True)


def read_run_file(root: Path = ROOT) -> dict[str, str]:
    """Returns the settings of the running `make run`; {} if there is none, or if this user may not read them."""
    try:
        found = json.loads((root / _FILE).read_text())
        os.kill(found["pid"], 0)
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found["settings"].items()}
