"""The servers that the gateway is compared with. Third-party ones are installed on demand, each in its own environment.

Plain proxies, which only pass requests on, are in proxies.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.dev import Child, start_child
from benchmarks.gateways import clean_environment, wait_until_answers
from benchmarks.machine import CannotRun, ResourceUsage, free_port, get_process_tree, get_resource_usage, pinned

MODEL = "accounts/fireworks/models/deepseek-v3p1"
# The second model that native/upstream.c lists.
SECOND_MODEL = "accounts/fireworks/models/kimi-k2-instruct"
# Long, because LiteLLM imports half a million lines before it listens.
_PEER_BOOT_TIMEOUT_S = 180.0
# Pinned, so that runs are comparable. LiteLLM 1.107.0 was a compromised release: never install that one.
VERSIONS = {"LiteLLM": "1.106.2", "Portkey": "1.15.2", "Envoy": "1.40.0"}


@dataclass
class Peer:
    """A server that serves chat requests: the gateway or another one.

    Attributes:
        name: its name in tables.
        port: where it listens.
        headers: the headers that its requests need.
        child: its process; None for one that this object did not start.
    """

    name: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    child: Child | None = None

    def get_resource_usage(self) -> ResourceUsage:
        """Returns the CPU time and memory of its processes."""
        return get_resource_usage(get_process_tree(self.child.process.pid)) if self.child else ResourceUsage(0.0, 0)


def start_bare_flask(place: Path, core: int, root: Path, python: str = sys.executable) -> Peer:
    """Starts a Flask route that does nothing, on gunicorn's gevent worker and this Python."""
    port = free_port()
    options = ["-c", "/dev/null", "-k", "gevent", "-b", f"127.0.0.1:{port}", "--keep-alive", "100"]
    command = pinned([core], [python, "-m", "gunicorn", *options, "benchmarks.bare:app"])
    child = start_child("Flask", command, environment=clean_environment(), output=place / "bare.log", cwd=root)
    wait_until_answers(child, port, "/health", place / "bare.log")
    # With a key, so that it reads the same head as the gateway.
    return Peer("bare Flask route", port, {"Authorization": "Bearer fw_REPLACE_ME"}, child)


def install_from_pypi(place: Path, name: str, package: str) -> Path:
    """Installs a peer into an environment of its own, unless this version is there; returns the path."""
    home = place.parent / f"{name.lower()}-{VERSIONS[name]}"
    if not (home / "complete").exists():
        print(f"Installing {name} into", home, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        wanted = f"{package}=={VERSIONS[name]}"
        subprocess.run([home / "bin" / "pip", "install", "--quiet", wanted], check=True)
        (home / "complete").touch()
    return home


def start_litellm(place: Path, core: int, upstream: int) -> Peer:
    """Installs LiteLLM's proxy from PyPI if it is missing, and starts it with one worker and no database."""
    program = install_from_pypi(place, "LiteLLM", "litellm[proxy]") / "bin" / "litellm"
    parameters = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://127.0.0.1:{upstream}/inference/v1",
        "api_key": "fw_REPLACE_ME",
    }
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": "sk-bench"},
    }
    (place / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML too.
    port = free_port()
    command = [str(program), "--config", str(place / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    # In its default mode LiteLLM reads any .env in a parent directory, such as ours.
    switches = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    environment = clean_environment() | switches
    log = place / "litellm.log"
    child = start_child(
        "LiteLLM",
        pinned([core], [*command, "--num_workers", "1", "--telemetry", "False"]),
        environment=environment,
        output=log,
        cwd=place,
    )
    wait_until_answers(child, port, "/health/liveliness", log, _PEER_BOOT_TIMEOUT_S)
    return Peer("LiteLLM", port, {"Authorization": "Bearer sk-bench"}, child)


def start_portkey(place: Path, core: int, upstream: int) -> Peer:
    """Installs Portkey's gateway from npm if it is missing, and starts it.

    Raises:
        CannotRun: npm is not installed.
    """
    home = place.parent / f"portkey-{VERSIONS['Portkey']}"
    server = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if shutil.which("npm") is None:
        raise CannotRun("npm is not installed, so Portkey is left out; on Debian and Ubuntu: apt-get install npm.")
    if not server.exists():
        print("Installing Portkey into", home, flush=True)
        package = f"@portkey-ai/gateway@{VERSIONS['Portkey']}"
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-fund", "--prefix", home, package], check=True)
    port = free_port()
    log = place / "portkey.log"
    child = start_child(
        "Portkey",
        pinned([core], ["node", str(server), f"--port={port}", "--headless"]),
        environment=clean_environment() | {"NODE_ENV": "production"},
        output=log,
        cwd=place,
    )
    wait_until_answers(child, port, "/", log)
    headers = {
        "Authorization": "Bearer fw_REPLACE_ME",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://localhost:{upstream}/inference/v1",
    }
    return Peer("Portkey", port, headers, child)
