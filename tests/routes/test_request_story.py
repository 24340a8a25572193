"""`GET /api/activity/<request_id>` returns the story of one request, whichever of its ids the caller has."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from app.config import load_settings
from app.runtime import use_settings
from tests.conftest import MakeGateway
from tests.support.answers import chat_answer, chunk, json_answer, sse_stream
from tests.support.chat import PREFIX, Seen, chat_body, post, post_chat, request, wait_for_row
from tests.support.database_clock import shift_clock
from tests.support.gateway import Gateway
from tests.support.keys import create_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

SECRET_WORD = "zanzibar-secret"


def tell(gateway: Gateway, request_id: str, key: str | None = None) -> Seen:
    """Asks for the story of a request until it is available, because records are shipped only twice a second."""

    def ask() -> Seen:
        headers = {"Authorization": f"Bearer {key or gateway.key}"}
        return request("GET", f"{gateway.url}/api/activity/{quote(request_id, safe='')}", headers=headers)

    wait_until(lambda: ask().status == 200, what=f"the record of {request_id}")
    return ask()


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_told_by_any_of_its_three_ids(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, stream: bool
) -> None:
    said = f"Extra inputs are not permitted, field: 'store', value: '{SECRET_WORD}'"
    upstream_id, own_id = f"chatcmpl-of-the-provider-{stream}", f"trace/{stream} 7"
    error = {"message": said, "param": "store", "code": "BAD_REQUEST", "type": "error"}
    upstream.on_model("told", json_answer({"error": error, "request_id": upstream_id}, 400))
    content = json.dumps(chat_body(PREFIX + "told", stream=stream)).encode()
    seen = post(scripted_gateway, content, headers={"x-request-id": own_id})
    assert seen.status == 400 and SECRET_WORD in seen.error["message"]

    told = tell(scripted_gateway, seen.request_id)
    assert told.headers["cache-control"] == "no-store"
    record = told.json["data"]
    assert (told.json["object"], told.json["found_by"], told.json["others"]) == ("activity", "request_id", [])
    assert (record["request_id"], record["key_id"], record["stream"]) == (seen.request_id, "env", stream)
    assert (record["outcome"], record["status"], record["upstream_status"]) == ("upstream_error", 400, 400)
    assert (record["error_type"], record["error_code"]) == ("invalid_request_error", "bad_request")
    assert record["error_message"] == "Extra inputs are not permitted, field: 'store', value: …"
    assert (record["error_param"], record["repaired"]) == ("store", None)
    assert (record["upstream_request_id"], record["client_request_id"]) == (upstream_id, own_id)
    assert [attempt["status"] for attempt in record["attempts"]] == [400] and record["duration_ms"] > 0
    for given, found_by in ((upstream_id, "upstream_request_id"), (own_id, "client_request_id")):
        assert tell(scripted_gateway, given).json == told.json | {"found_by": found_by}
    assert SECRET_WORD not in told.body.decode() + scripted_gateway.log()


def test_the_message_that_the_client_got_is_on_the_record(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.on_model("cut-off", sse_stream([chunk("a")]))
    scripts = [
        post_chat(scripted_gateway, PREFIX + "cut-off", stream=True),
        post_chat(scripted_gateway, PREFIX + "x", temperature=9),
        post(scripted_gateway, b"nonsense"),
    ]
    for seen in scripts:
        record = tell(scripted_gateway, seen.request_id).json["data"]
        assert record["error_message"] == seen.error["message"][:300] and seen.error["message"]
        assert record["error_param"] == seen.error["param"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_of_the_provider_is_called_the_gateways_in_the_first_words(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    upstream.enqueue(json_answer({"error": {"message": "The API key you provided is invalid."}}, status))
    seen = post_chat(scripted_gateway, PREFIX + "refused")
    assert (seen.status, seen.error["type"]) == (status, "upstream_authentication_error")
    assert seen.error["message"].startswith("Fireworks refused the gateway's own API key")
    assert tell(scripted_gateway, seen.request_id).json["data"]["error_message"] == seen.error["message"]
    assert post_chat(scripted_gateway, PREFIX + "refused").status == 200  # A success, so that no breaker opens.


def test_an_absurd_number_of_tokens_costs_neither_the_answer_nor_the_row(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue(chat_answer("hi", usage={"prompt_tokens": 7, "completion_tokens": 10**13, "total_tokens": 9}))
    seen = post_chat(scripted_gateway, PREFIX + "absurd")
    assert seen.status == 200
    record = tell(scripted_gateway, seen.request_id).json["data"]
    assert (record["outcome"], record["status"], record["finish_reason"]) == ("ok", 200, "stop")
    assert record["completion_tokens"] != 10**13 and not record["cost_usd"]


def test_one_id_with_several_requests_tells_the_newest_and_names_the_others(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    content = json.dumps(chat_body(PREFIX + "often")).encode()
    headers = {"x-client-request-id": "the-same"}
    ids = [post(scripted_gateway, content, headers=headers).request_id for _ in range(3)]
    for request_id in ids:
        wait_for_row(session_database_url, request_id)
    told = tell(scripted_gateway, "the-same").json
    assert [told["data"]["request_id"], *told["others"]] == ids[::-1]


@pytest.mark.parametrize(
    ("sent", "kept"), [("x" * 500, "x" * 300), ("caf\xe9", None), ("", None), ("tab\tted", None)], ids=repr
)
def test_a_clients_id_is_kept_if_it_can_be_printed(
    scripted_gateway: Gateway, session_database_url: str, sent: str, kept: str | None
) -> None:
    content = json.dumps(chat_body(PREFIX + "any")).encode()
    seen = post(scripted_gateway, content, headers={"x-request-id": sent.encode("latin-1")})  # type: ignore[dict-item]
    assert wait_for_row(session_database_url, seen.request_id)["client_request_id"] == kept
    if kept:
        assert tell(scripted_gateway, sent).json["found_by"] == "client_request_id"


def test_a_key_is_told_of_its_own_requests_only(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    use_settings(load_settings({"DATABASE_URL": session_database_url}))
    first, second = create_key("first")[0], create_key("second")[0]
    use_settings(None)
    content = json.dumps(chat_body(PREFIX + "own")).encode()
    # Both keys send the same id; each finds its own request, and the operator the newest.
    seen = [post(scripted_gateway, content, key=key, headers={"x-request-id": "shared"}) for key in (first, second)]
    for key, own, other in ((first, *seen), (second, *seen[::-1])):
        for given in (own.request_id, "shared", own.headers["x-request-id"]):
            told = tell(scripted_gateway, given, key).json
            assert (told["data"]["request_id"], told["others"]) == (own.request_id, [])
        refused = request(
            "GET",
            f"{scripted_gateway.url}/api/activity/{other.request_id}",
            headers={"Authorization": f"Bearer {key}"},
        )
        assert (refused.status, refused.error["code"], refused.error["param"]) == (404, "unknown_request", "request_id")
        assert "x-upstream-request-id" in refused.error["message"]
    told = tell(scripted_gateway, "shared").json
    assert [told["data"]["request_id"], *told["others"]] == [one.request_id for one in seen[::-1]]


@pytest.mark.parametrize("given", ["nothing", "%7F", "y" * 2000, "019ab2c4-5d6e-7f80-9abc-def012345678", "%ff"])
def test_an_unknown_id_is_a_404_that_says_what_to_give(scripted_gateway: Gateway, given: str) -> None:
    url = f"{scripted_gateway.url}/api/activity/{given}"
    seen = request("GET", url, headers=scripted_gateway.headers)
    assert (seen.status, seen.error["type"], seen.error["code"]) == (404, "not_found_error", "unknown_request")
    assert "Only inference requests are recorded" in seen.error["message"]
    assert request("GET", url).status == 401
    assert request("GET", url + "?limit=1", headers=scripted_gateway.headers).error["param"] == "limit"


def test_an_id_with_a_nul_is_no_path(scripted_gateway: Gateway) -> None:
    # PostgreSQL cannot hold such text, so it reaches no route.
    seen = request("GET", f"{scripted_gateway.url}/api/activity/%00", headers=scripted_gateway.headers)
    assert (seen.status, seen.error["type"], seen.error["code"]) == (404, "not_found_error", "unknown_path")


@soak_only("services/reports/test_retention.py::test_a_host_whose_clock_is_ahead_drops_nothing_until_it_is_right")
def test_nothing_is_dropped_while_the_clocks_differ_and_windows_are_postgresqls(
    make_gateway: MakeGateway, upstream: ScriptedUpstream, database_url: str
) -> None:
    shift_clock(database_url, "-100 days")
    gateway = make_gateway(upstream.settings | {"RETENTION_DAYS": "7"})
    seen = post_chat(gateway, PREFIX + "well")
    today = tell(gateway, seen.request_id).json["data"]["started_at"][:10]

    def get(path: str) -> Seen:
        return request("GET", gateway.url + path, headers=gateway.headers)

    wait_until(lambda: "retention_skipped" in gateway.log(), what="retention to be skipped")
    assert "partitions_dropped" not in gateway.log() and "rollups_deleted" not in gateway.log()
    (line,) = [line for line in get("/metrics").body.decode().splitlines() if line.startswith("gateway_clock_skew")]
    assert float(line.split()[-1]) == pytest.approx(100 * 86_400, abs=60)
    stats = get("/api/catalog/gateway/all/stats?time_range=24h").json["data"]
    assert stats["total_requests"] == 0 and stats["to"] < today
    assert get("/api/usage").json["to"] < today
    assert get("/api/activity/integrity").json["balanced"] is True
