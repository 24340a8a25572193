"""The servers that the gateway is compared with; peers are installed on request, each in its own environment."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.dev import Child, start_child
from benchmarks.gateways import clean_environment, wait_until_answers
from benchmarks.machine import CannotRun, ResourceUsage, free_port, get_process_tree, get_resource_usage, pinned

MODEL = "accounts/fireworks/models/deepseek-v3p1"
# LiteLLM imports half a million lines before it listens.
_PEER_BOOT_TIMEOUT_S = 180.0


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


def start_bare_flask(place: Path, core: int, root: Path) -> Peer:
    """Starts a Flask route that does nothing, on gunicorn's gevent worker."""
    port = free_port()
    options = ["-c", "/dev/null", "-k", "gevent", "-b", f"127.0.0.1:{port}", "--keep-alive", "100"]
    command = pinned([core], [sys.executable, "-m", "gunicorn", *options, "benchmarks.bare:app"])
    child = start_child("Flask", command, environment=clean_environment(), output=place / "bare.log", cwd=root)
    wait_until_answers(child, port, "/health", place / "bare.log")
    return Peer("bare Flask route", port, child=child)


_NGINX = """
worker_processes 1; daemon off; pid {place}/nginx.pid; error_log {place}/error.log crit;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {place}; proxy_temp_path {place}; fastcgi_temp_path {place};
  uwsgi_temp_path {place}; scgi_temp_path {place}; client_max_body_size 20m; client_body_buffer_size 2m;
  keepalive_requests 1000000000;
  upstream provider {{ server 127.0.0.1:{upstream}; keepalive 4096; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} {tls} backlog=8192;
    {certificate}
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def start_nginx(place: Path, core: int, upstream: int, certificate: Path | None = None) -> Peer:
    """Starts nginx in front of a port of 127.0.0.1, with TLS if a certificate (with its key) is given.

    Raises:
        CannotRun: nginx is not installed.
    """
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:" + clean_environment()["PATH"])
    if program is None:
        raise CannotRun("nginx is not installed, so it is left out; on Debian and Ubuntu: apt-get install nginx-light.")
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    port = free_port()
    tls = "" if certificate is None else f"ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    text = _NGINX.format(
        place=place, upstream=upstream, port=port, certificate=tls, tls="" if certificate is None else "ssl"
    )
    (place / "nginx.conf").write_text(text)
    command = pinned([core], [program, "-c", str(place / "nginx.conf"), "-p", str(place)])
    child = start_child("nginx", command, output=place / "log", stop_signal=signal.SIGTERM)
    if certificate is None:
        wait_until_answers(child, port, "/", place / "log")
    return Peer("nginx", port, child=child)


def make_certificate(place: Path) -> Path:
    """Makes a self-signed certificate for localhost, with its key in the same file.

    Raises:
        CannotRun: openssl is not installed.
    """
    program, path = shutil.which("openssl"), place / "certificate.pem"
    if program is None:
        raise CannotRun("openssl is not installed, so TLS is left out; on Debian and Ubuntu: apt-get install openssl.")
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(path), "-out", str(place / "crt")]
    subprocess.run([program, *options.split(), *names], check=True, capture_output=True)
    path.write_text(path.read_text() + (place / "crt").read_text())
    return path


def start_litellm(place: Path, core: int, upstream: int) -> Peer:
    """Installs LiteLLM's proxy from PyPI if it is missing, and starts it with one worker and no database."""
    home = place.parent / "litellm"
    program = home / "bin" / "litellm"
    if not program.exists():
        print("Installing LiteLLM into", home, flush=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", "litellm[proxy]"], check=True)
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
    home = place.parent / "portkey"
    server = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if shutil.which("npm") is None:
        raise CannotRun("npm is not installed, so Portkey is left out; on Debian and Ubuntu: apt-get install npm.")
    if not server.exists():
        print("Installing Portkey into", home, flush=True)
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--no-fund", "--prefix", home, "@portkey-ai/gateway"], check=True)
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


def version_of(name: str, place: Path) -> str:
    """Returns the installed version of a peer, "" if it is not installed."""
    if name == "LiteLLM":
        words = [str(place.parent / "litellm" / "bin" / "pip"), "show", "litellm"]
        said = subprocess.run(words, capture_output=True, text=True).stdout
        return next((line.split()[1] for line in said.splitlines() if line.startswith("Version:")), "")
    package = place.parent / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
    return str(json.loads(package.read_text())["version"]) if package.exists() else ""
