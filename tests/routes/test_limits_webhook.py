"""Signed warnings of a budget that requests use up, one for each share, over all workers."""

from __future__ import annotations

import base64
import json
import os
import signal

from tests.conftest import MakeGateway
from tests.services.test_webhook import SECRET, TOKEN, get_check
from tests.support.answers import chat_answer, json_answer, usage_of
from tests.support.chat import PREFIX, post_chat
from tests.support.limited_keys import make_limited_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import hang
from tests.support.soak import soak_only
from tests.support.waiting import wait_until


@soak_only("services/test_webhook.py::test_what_a_worker_leaves_is_sent_by_another")
def test_each_share_is_one_message_over_all_workers_whoever_is_killed(
    make_gateway: MakeGateway, database_url: str, upstream: ScriptedUpstream
) -> None:
    upstream.default = chat_answer("hi", usage=usage_of(100, 400))
    key = make_limited_key(database_url, ("tokens", 10_000, {"warn_percents": [20, 40]}))
    with ScriptedUpstream() as receiver:
        receiver.default = json_answer({})
        receiver.enqueue([hang()], json_answer({}, 500))
        settings = {"LIMITS_WEBHOOK": f"{receiver.base_url}/hook?key={TOKEN}", "LIMITS_WEBHOOK_SECRET": SECRET}
        gateway = make_gateway(upstream.settings | settings, workers=2)
        # The first message takes three attempts: the workers are killed while one of them sends it, and then the
        # receiver fails.
        for requests, messages in ((6, 1), (4, 4)):
            for _ in range(requests):
                assert post_chat(gateway, PREFIX + "scripted", key=key, max_tokens=500).status == 200
            receiver.wait_for_count(messages)
            if messages == 1:
                for pid in gateway.worker_pids():
                    os.kill(pid, signal.SIGKILL)
                receiver.wait_for_count(3)
        warned = post_chat(gateway, PREFIX + "scripted", key=key, max_tokens=500)
        assert "x-gateway-budget-warning" in warned.headers
        first, again, third, second = receiver.requests
    assert first.body == again.body == third.body
    assert {seen.headers["webhook-id"] for seen in (first, again, third)} == {first.json["id"]}
    assert [seen.json["data"]["warn_percent"] for seen in (first, second)] == [20, 40]
    assert first.json["data"]["charged"] == "3000" and first.json["data"]["amount"] == "10000"
    assert all(get_check()(SECRET, seen.headers, seen.body) for seen in receiver.requests)
    wait_until(lambda: gateway.log().count('"webhook_message_delivered"') == 2, what="the delivery in the log")
    log = gateway.log()
    passed = [json.loads(line) for line in log.splitlines() if '"budget_share_passed"' in line]
    assert [line["percent"] for line in passed] == [20, 40]
    assert TOKEN not in log and SECRET not in log and base64.b64decode(SECRET).hex() not in log
