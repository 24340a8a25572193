"""No secret appears in a log, a response or a row, whatever fails."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable

from tests.support.answers import json_answer, sse_stream
from tests.support.chat import PREFIX, Seen, chat_body, post, post_chat, request, rows_where, wait_for_row
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import close, send
from tests.support.soak import soak_only

PROVIDER, GATEWAY, PASSWORD = "fw_" + "canary" * 4, "gw_" + "canary" * 4, "canary-pass"


@soak_only("test_operation_redaction.py::test_secrets_of_any_form_show_nowhere")
def test_secrets_show_nowhere_under_failures(
    make_gateway: Callable[..., Gateway], upstream: ScriptedUpstream, postgres: Postgres, database_url: str
) -> None:
    with_password = database_url.replace("postgres@", f"postgres:{PASSWORD}@")
    secrets = {"DATABASE_URL": with_password, "FIREWORKS_API_KEY": PROVIDER, "GATEWAY_API_KEY": GATEWAY}
    gateway = make_gateway(upstream.settings | secrets | {"UPSTREAM_RETRIES": "0"})
    told = f"Bearer {PROVIDER} is wrong; you are {GATEWAY}."
    upstream.on_model("echo-401", json_answer({"error": {"message": told}}, 401))
    upstream.on_model("echo-400", json_answer({"error": {"message": told, "code": PROVIDER}}, 400))
    upstream.on_model("echo-500", json_answer({"error": told}, 500))
    upstream.on_model("echo-head", [send(f"HTTP/1.1 {told}\r\n\r\n".encode()), close()])
    upstream.on_model("echo-junk", sse_stream([f"data: {told}\n\n".encode()]))
    answers: list[Seen] = []
    for name in ("echo-401", "echo-400", "echo-500", "echo-head", "echo-junk"):
        answers += [post_chat(gateway, PREFIX + name, stream=stream) for stream in (False, True)]
    answers.append(post(gateway, json.dumps(chat_body(GATEWAY)).encode()))
    answers.append(request("GET", f"{gateway.url}/nowhere?key={urllib.parse.quote(GATEWAY)}"))
    answers.append(post_chat(gateway, PREFIX + "x", key=GATEWAY + "x"))
    postgres_name = database_url.rpartition("/")[2].partition("?")[0]
    rows = [wait_for_row(database_url, seen.request_id) for seen in answers[:10]]
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
        f"'{postgres_name}' AND pid <> pg_backend_pid()"
    )
    answers.append(request("GET", gateway.url + "/ready"))
    answers.append(post_chat(gateway, PREFIX + "echo-500"))
    assert gateway.stop() == 0

    everything = gateway.log() + str(rows) + str(rows_where(database_url, "key_id", "env"))
    everything += "".join(f"\n{seen.headers} {seen.body!r}" for seen in answers)
    leaks = [line for line in everything.splitlines() if PROVIDER in line or PASSWORD in line]
    assert leaks == []
    # A key sent as the model name is in the row of that request, and nowhere else.
    assert GATEWAY not in gateway.log()
