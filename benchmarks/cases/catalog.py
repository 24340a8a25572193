"""The model catalog with the lists of all four providers, which the sandbox plays: lists, one model, a search."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from typing import Any

from app.config import ROOT
from benchmarks.cases.chat import PATH, PLAIN, measure
from benchmarks.machine import CannotRun
from benchmarks.native import Load
from benchmarks.results import Results
from benchmarks.stage import Stage

_NAME = "gateway, four catalogs"
# Long, because Featherless' list has 23 pages.
_LOADING_TIMEOUT_S = 120.0
_LIST = "/api/catalog/models?gateway=featherless"


def measure_catalog(stage: Stage, results: Results) -> None:
    """Measures a list, one model and a search with one connection each, a bare Flask route beside them, and memory."""
    gateway = stage.get_gateway(_NAME)
    total = wait_for_catalog(gateway.port)
    stage.get_peer(_NAME)
    seconds = 1.5 if stage.options.quick else 2.0
    paths = {
        "300 models": f"{_LIST}&limit=300",
        f"one model of {total}": f"/api/catalog/model/{_model_in_the_middle(gateway.port, total)}?gateway=featherless",
        f"search over {total}": f"{_LIST}&search=coder&limit=20",
    }
    for case, path in paths.items():
        _measure_get(stage, results, f"catalog: {case}", path, seconds)
    measure(stage, results, "catalog: beside it", ["bare Flask route"], Load(0, PATH, {}, PLAIN, seconds=seconds))
    results.add("catalog: memory", _NAME, {"memory_mb": gateway.get_resource_usage().memory_bytes / 1e6})


def measure_stats(stage: Stage, results: Results) -> None:
    """Measures statistics over ten million rows, once, with `benchmarks/stats.py`, whose output is kept."""
    if "stats" in results.facts:
        return
    command = [sys.executable, "-m", "benchmarks.stats", *(["--rows", "1000000"] if stage.options.quick else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotRun(f"benchmarks.stats failed: {done.stderr.strip()[-500:]}")
    results.facts["stats"] = done.stdout.strip()


def _measure_get(stage: Stage, results: Results, case: str, path: str, seconds: float) -> None:
    port = stage.get_gateway(_NAME).port
    results.add(case, _NAME, stage.run_load(Load(port, path, seconds=seconds)).result())


def wait_for_catalog(port: int) -> int:
    """Waits until Featherless' whole list is loaded; returns how many models it has."""
    deadline_s = time.monotonic() + _LOADING_TIMEOUT_S
    while time.monotonic() < deadline_s:
        status, page = _get(port, f"{_LIST}&limit=1")
        if status == 200:
            return int(page["total"])
        time.sleep(0.5)
    raise CannotRun("The catalog of the sandbox was not loaded in time.")


def _model_in_the_middle(port: int, total: int) -> str:
    _, page = _get(port, f"{_LIST}&limit=1&offset={total // 2}")
    return str(page["data"][0]["id"])


def _get(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()
