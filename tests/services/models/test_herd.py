"""Five hundred clients at the moment of expiry, in a process patched by gevent like a worker."""

from __future__ import annotations

import subprocess
import sys

from app.config import ROOT
from tests.support.catalogs import (
    FIREWORKS_LIST,
    fireworks_rows,
    list_answer,
    provider_environment,
    root_of,
    seen_at,
)
from tests.support.gateway import clean_environment
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, wait_for

# The worker prints a line after each step, and the test reacts to it. Reading standard input would block all greenlets.
WORKER = """
from gevent import monkey; monkey.patch_all()
import gevent
from app.services import models
from app.services.models import cache
from app.services.providers.fireworks import PROVIDER as FIREWORKS
from app.runtime import get_component
from app.services.endpoints import CHAT, InferenceBody
from app.services.routing import Routes

cache.REFRESH_SPREAD_S = 0.0
def look(number):
    target = get_component(Routes).find_route(CHAT, InferenceBody(model=f"model-{number % 2}")).target
    return target.model, [model.name for model in models.get_model_list(FIREWORKS)]

assert look(0)[1] == ["model-0", "model-1"]
models._fireworks_models_cache["timestamp"] -= 1801
tasks = [gevent.spawn(look, number) for number in range(500)]
gevent.joinall(tasks, raise_error=True)
assert all(task.value[1] == ["model-0", "model-1"] for task in tasks)
print("served", len(tasks), flush=True)
while len(models.get_model_list(FIREWORKS)) != 3:
    gevent.sleep(0.01)
print("refreshed", flush=True)
"""


def test_five_hundred_clients_at_expiry_cause_one_fetch_and_none_of_them_waits(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    first = list_answer(fireworks_rows("model-0", "model-1"))
    prices = list_answer([])
    # The refresh does not end before all five hundred have been served, so none of them can have waited for it.
    second = [wait_for(gate), *list_answer(fireworks_rows("model-0", "model-1", "model-2"))]
    upstream.enqueue(first, prices, second)
    environment = clean_environment() | provider_environment(root_of(upstream), ["fireworks"])

    with subprocess.Popen(
        [sys.executable, "-c", WORKER], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        try:
            assert worker.stdout.readline() == "served 500\n"
            gate.open()
            assert worker.stdout.readline() == "refreshed\n"
        finally:
            gate.open()
            worker.kill()

    assert len(seen_at(upstream, FIREWORKS_LIST)) == 2
