"""Python interpreters of gateways: describes their builds, and installs the gateway's packages for another one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import CannotRun

# The package lists of a gateway: `RUN_LISTS` in the Makefile, without the list that only `make run` needs.
_LISTS = ("requirements.txt", "requirements-idempotency.txt")

_QUESTION = """
import json, platform, sys, sysconfig
try:
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
except OSError:
    system = ""
print(json.dumps({
    "version": platform.python_version(),
    "prefix": sys.base_prefix,
    "arguments": sysconfig.get_config_var("CONFIG_ARGS") or "",
    "is_shared": "/libpython" in open("/proc/self/maps").read(),
    "system": system,
}))
"""


def describe_interpreter(python: Path | str = sys.executable) -> str:
    """Returns the version of a Python and the facts of its build that affect speed: its distributor and its linking.

    Raises:
        CannotRun: it cannot be run.
    """
    return describe_build(_ask(python))


def describe_build(facts: dict[str, Any]) -> str:
    """Returns the output of `_QUESTION` in words.

    A distribution's Python has the prefix /usr. Its build options do not show whether it is profile-guided, because
    distributions enable that in ways of their own; the options of other builds do.
    """
    linked = "a shared library" if facts["is_shared"] else "linked statically"
    if facts["prefix"] == "/usr":
        return f"{facts['version']} of {facts['system'] or 'a distribution'} ({linked})"
    with_or_without = "with" if "--enable-optimizations" in facts["arguments"] else "without"
    return f"{facts['version']}, not a distribution's ({linked}, built {with_or_without} --enable-optimizations)"


def _ask(python: Path | str) -> dict[str, Any]:
    try:
        done = subprocess.run([python, "-c", _QUESTION], capture_output=True, text=True)
    except OSError as error:
        raise CannotRun(f"{python} cannot be run: {error}") from error
    if done.returncode != 0:
        raise CannotRun(f"{python} is no Python that can be measured: {done.stderr.strip()[-300:]}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def get_interpreter_of(tree: Path) -> str:
    """Returns the Python of a checkout: from its own `.venv` if it has one, else the running one."""
    own = tree / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def make_environment(python: Path, tree: Path, place: Path) -> str:
    """Returns a Python like `python` with the packages that a checkout pins, installed into `place` if missing.

    Raises:
        CannotRun: it cannot be run, or has no venv module.
    """
    lists = [tree / name for name in _LISTS]
    version = describe_interpreter(python)  # Two builds of one version get separate environments.
    digest = hashlib.sha256(version.encode() + b"".join(path.read_bytes() for path in lists)).hexdigest()[:8]
    home = place / f"python-{version.split()[0].rstrip(',')}-{digest}"
    own = home / "bin" / "python"
    if not (home / "complete").exists():
        print("Installing the gateway's packages into", home, flush=True)
        options = [word for path in lists for word in ("-r", str(path))]
        commands: list[list[str | Path]] = [
            [python, "-m", "venv", "--clear", home],
            [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", *options],
        ]
        for command in commands:
            if (done := subprocess.run(command, capture_output=True, text=True)).returncode != 0:
                raise CannotRun(f"{python} got no environment: {(done.stderr or done.stdout).strip()[-500:]}")
        (home / "complete").touch()
    return str(own)
