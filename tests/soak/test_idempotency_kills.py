"""Eight processes repeat the same requests while workers are killed: a provider gets each of them once at most."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.answers import sse_stream, whole_stream
from tests.support.chat import PREFIX
from tests.support.gateway import Gateway, clean_environment
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, close, pause
from tests.support.soak import FULL, soak_only
from tests.support.waiting import wait_until

PROCESSES = 8
KEYS = 48 if FULL else 20
KILLS = 4 if FULL else 2
MODEL = PREFIX + "hammered"
# Long enough that a kill meets requests without an answer. A connection serves one request, so that a worker with a
# connection has a request at the provider.
STREAM: Script = [*sse_stream([pause(0.8), *whole_stream("one ", "two")], headers={"connection": "close"}), close()]


def _waits_for_provider(pid: int, port: int) -> bool:
    """Returns whether a worker has a connection to the provider."""
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(each.raddr and each.raddr.port == port and each.status == "ESTABLISHED" for each in connections)


@soak_only("services/idempotency/test_store.py::test_what_a_dead_worker_served_is_lost_for_good")
@pytest.mark.soak
def test_no_request_is_paid_for_twice_although_workers_are_killed(
    make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(upstream.settings | {"IDEMPOTENCY_HOURS": "1", "UPSTREAM_RETRIES": "0"}, workers=3)
    upstream.default = STREAM  # Also for unstreamed requests, whose answers are then collected.
    command = [sys.executable, str(Path(__file__).with_name("hammer.py")), str(gateway.port), gateway.key, MODEL]
    clients = [
        subprocess.Popen([*command, str(KEYS)], stdout=subprocess.PIPE, env=clean_environment(), text=True)
        for _ in range(PROCESSES)
    ]
    chance = random.Random(5)
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.0, 0.6))
        waiting = wait_until(
            lambda: [pid for pid in gateway.worker_pids() if _waits_for_provider(pid, upstream.port)],
            what="a request at the provider",
        )
        os.kill(chance.choice(waiting), signal.SIGKILL)
    seen = [json.loads(client.communicate(timeout=60)[0]) for client in clients]

    calls = Counter(str(call.json["model"]) for call in upstream.calls)
    assert len(calls) <= KEYS and set(calls.values()) == {1}, calls
    lost = 0
    for number in range(KEYS):
        answers = [answers[f"{MODEL}-{number}"] for answers in seen]
        assert {tuple(answer[:2]) for answer in answers} <= {(200, None), (500, "idempotency_lost")}, answers
        # All clients that got an answer got the same one, byte for byte.
        assert len({digest for status, _, digest in answers if status == 200}) <= 1, answers
        lost += any(code for _, code, _ in answers)
        if not any(code for _, code, _ in answers):
            assert calls[f"{MODEL}-{number}"] == 1
    print(f"{KEYS} keys, {sum(calls.values())} paid for, {lost} lost")
    assert 0 < lost < KEYS
