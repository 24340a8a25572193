"""Two gateways with the same PORT, on two addresses, keep their metrics apart."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.support.chat import post, request
from tests.support.gateway import Gateway, base_settings, clean_environment, free_port, running_gateway
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

COUNTED = 'gateway_requests_total{outcome="rejected",provider="none",route="/v1/chat/completions"}'


@contextmanager
def on_another_port(first: Gateway, place: Path, settings: dict[str, str]) -> Iterator[str]:
    """A second gateway with the PORT of `first` that listens on another port; yields its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = clean_environment() | settings | {"PORT": str(first.port), "WEB_CONCURRENCY": "1"}
    command = [sys.executable, "-m", "gunicorn", "wsgi:app", "-b", f"127.0.0.1:{port}"]
    with (place / "second.log").open("ab") as log:
        child = subprocess.Popen(command, env=environment, cwd=first.root, stdout=log, stderr=log)
    try:
        wait_until(lambda: is_healthy(url), what="the second gateway")
        yield url
    finally:
        child.terminate()
        child.wait(30)


def is_healthy(url: str) -> bool:
    """Returns whether a gateway answers there."""
    try:
        return request("GET", url + "/health").status == 200
    except requests.ConnectionError:
        return False


def count_rejected(url: str) -> float:
    """Returns the number of refused chats in the metrics of a gateway."""
    lines = request("GET", url + "/metrics").body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(COUNTED))


def assert_locked(directory: Path) -> None:
    """Fails if another gateway could take the directory."""
    with (directory / "lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@soak_only("test_dev.py::test_a_port_in_use_is_reported_in_one_sentence")
def test_a_gateway_with_the_same_port_setting_does_not_empty_the_metrics(
    tree: Path, tmp_path: Path, database_url: str
) -> None:
    settings = base_settings(tmp_path, database_url)
    with running_gateway(tree, tmp_path, settings) as first:
        metrics = tree / "var" / "metrics" / str(first.port)
        assert [post(first, b"{}").status for _ in range(3)] == [400] * 3
        assert count_rejected(first.url) == 3
        with on_another_port(first, tmp_path, settings) as second:
            assert (count_rejected(first.url), count_rejected(second)) == (3, 0)
            assert_locked(metrics.with_name(f"{first.port}-1"))
        before = first.worker_pids()
        first.send_signal(signal.SIGHUP)
        wait_until(lambda: first.worker_pids() and not set(before) & set(first.worker_pids()), what="new workers")
        assert_locked(metrics)
        with on_another_port(first, tmp_path, settings):
            assert post(first, b"{}").status == 400
            assert count_rejected(first.url) == 4
    with (metrics / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
