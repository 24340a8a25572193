"""No caller can take anything from the others: no provider, no name, no room for records, no connection."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from app.db import create_engine_for
from app.db.keys import insert_key
from app.services.keys import digest_of, new_key
from tests.support.answers import catalog_answer, json_answer
from tests.support.chat import PREFIX, Seen, chat_body, post, post_chat, request, rows_where
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.limited_keys import make_limited_key
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import FULL
from tests.support.waiting import wait_until

MOST = 20  # Refusals per second that get separate records.
KEY_REFUSED = json_answer({"error": {"message": "no"}}, 403)
UNPAID = json_answer({"error": {"message": "pay"}}, 402)


class Place(NamedTuple):
    """A gateway of one worker with a database of its own, in front of one upstream that plays all providers."""

    gateway: Gateway
    upstream: ScriptedUpstream
    url: str
    keys: tuple[str, str]

    def count_chats(self, model: str) -> int:
        """Returns how many chat requests for this model reached a provider."""
        return len(
            [
                seen
                for seen in list(self.upstream.requests)
                if isinstance(seen.json, dict) and seen.json.get("model") == model
            ]
        )

    def get_breakers(self) -> list[tuple[str, str]]:
        """Returns the open breakers that `/ready` shows."""
        breakers = request("GET", self.gateway.url + "/ready").json["breakers"]
        return [(one["provider"], one["kind"]) for one in breakers]


@pytest.fixture(scope="module")
def place(gateways: Gateways, postgres: Postgres) -> Iterator[Place]:
    """The gateway of these tests; no test may leave a breaker open that would affect a later one."""
    url = postgres.create_migrated_database()
    keys = tuple(_insert_key(url, name) for name in ("greedy", "honest"))
    with ScriptedUpstream() as upstream:
        upstream.on_path("/featherless/v1/models", catalog_answer("org/unkeyed", "org/another"))
        base_url = upstream.base_url.removesuffix("/inference/v1")
        settings = upstream.settings | {
            "FEATHERLESS_API_KEY": "rc_test",
            "FEATHERLESS_BASE_URL": f"{base_url}/featherless/v1",
            "DEEPINFRA_API_KEY": "di_test",
            "DEEPINFRA_BASE_URL": f"{base_url}/deepinfra/v1/openai",
            "MAX_REFUSALS_PER_SECOND": str(MOST),
        }
        with gateways.running(url, settings) as gateway:
            yield Place(gateway, upstream, url, (keys[0], keys[1]))
    gateways.after_stops(lambda: postgres.drop_database(url))


def _insert_key(url: str, name: str) -> str:
    key, engine = new_key(), create_engine_for(url)
    with engine.begin() as connection:
        insert_key(connection, id=key.split("_")[1], name=name, digest=digest_of(key), last_four=key[-4:])
    engine.dispose()
    return key


@pytest.mark.parametrize(("script", "status", "sent"), [(KEY_REFUSED, 403, 5), (UNPAID, 503, 2)])
def test_a_model_that_is_refused_takes_no_other_model_from_anybody(
    place: Place, script: Any, status: int, sent: int
) -> None:
    model, (greedy, honest) = f"{PREFIX}odd-{status}", place.keys
    place.upstream.on_model(model, script)
    assert post_chat(place.gateway, PREFIX + "good", key=honest).status == 200
    seen = [post_chat(place.gateway, model, key=greedy) for _ in range(12)]
    assert [one.status for one in seen] == [status] * 12 and place.count_chats(model) == sent
    assert [(one.headers["x-should-retry"], "retry-after" in one.headers) for one in seen] == [("false", False)] * 12
    assert place.get_breakers() == []
    for key in place.keys:
        assert post_chat(place.gateway, PREFIX + "good", key=key).status == 200
    assert post_chat(place.gateway, model, key=honest).status == status
    assert place.count_chats(model) == sent + 1, "one key's refusals say nothing of what another sends"
    row = wait_until(lambda: rows_where(place.url, "request_id", seen[-1].request_id), what="the row")[0]
    assert (row["outcome"], row["cost_kind"], row["attempts"]) == ("upstream_error", "exact", [])


def test_a_provider_that_refuses_two_keys_and_two_models_fails_fast_for_all(place: Place) -> None:
    place.upstream.on_model("unpaid-", UNPAID)
    assert post_chat(place.gateway, "good:x", key=place.keys[0], provider="deepinfra").status == 200
    for number in range(3):
        assert post_chat(place.gateway, f"unpaid-{number}:x", key=place.keys[1], provider="deepinfra").status == 503
        assert place.get_breakers() == []
    assert post_chat(place.gateway, "good:x", key=place.keys[0], provider="deepinfra").status == 200
    for key, model in zip(place.keys, ("unpaid-a:x", "unpaid-b:x"), strict=True):
        assert post_chat(place.gateway, model, key=key, provider="deepinfra").status == 503
    assert place.get_breakers() == [("deepinfra", "account")]
    seen = post_chat(place.gateway, "good:y", key=place.gateway.key, provider="deepinfra")
    assert seen.status == 503 and place.count_chats("good:y") == 0 and "retry-after" not in seen.headers


def test_a_provider_that_refuses_the_gateways_own_request_fails_fast_for_all(place: Place) -> None:
    place.upstream.on_path("/account/concurrency", json_answer({"error": {"message": "no"}}, 401))
    place.upstream.on_model("org/unkeyed", json_answer({"error": {"message": "no"}}, 401))
    for _ in range(5):
        assert post_chat(place.gateway, "org/unkeyed", key=place.keys[0], provider="featherless").status == 401
    wait_until(lambda: ("featherless", "key") in place.get_breakers(), what="the breaker")
    seen = post_chat(place.gateway, "org/another", key=place.keys[1], provider="featherless")
    assert seen.status == 401 and place.count_chats("org/another") == 0 and "retry-after" not in seen.headers
    (asked,) = [one for one in list(place.upstream.requests) if one.path == "/featherless/account/concurrency"]
    assert asked.headers["authorization"] == "Bearer rc_test"


def test_names_that_only_a_caller_gave_reach_neither_statistics_nor_metrics(place: Place) -> None:
    place.upstream.on_model(
        "invented", json_answer({"error": {"message": "no such model", "code": "what invented-9 is"}}, 400)
    )
    place.upstream.on_model("halfway", json_answer(b"{}", 200))
    names = [f"{PREFIX}{name}-{number}" for name in ("invented", "halfway") for number in range(5)]
    seen = [
        post_chat(place.gateway, name, key=place.keys[0], stream=stream) for name in names for stream in (False, True)
    ]
    assert {one.status for one in seen} <= {200, 400, 502}
    assert post_chat(place.gateway, PREFIX + "unlisted", key=place.keys[0]).status == 200
    last = seen[-1].request_id
    wait_until(lambda: rows_where(place.url, "request_id", last), what="the last row")
    stats = _get(place, "/api/catalog/gateway/all/stats?time_range=1h")["data"]
    usage = _get(place, "/api/usage")
    metrics = request("GET", place.gateway.url + "/metrics").body.decode()
    for shown in (json.dumps(stats), json.dumps(usage), metrics):
        assert "invented" not in shown and "halfway" not in shown and "scripted" in shown
    bucket = next(row for row in stats["models"] if row["model"] is None)
    assert bucket["models"] == 0 and bucket["requests"] >= 20
    rows = rows_where(place.url, "model_requested", names[0])
    assert [row["model_served"] for row in rows] == [None, None], "a record keeps what was asked for"


def _get(place: Place, path: str) -> Any:
    return request("GET", place.gateway.url + path, headers=place.gateway.headers).json


def test_refusals_beyond_twenty_a_second_share_one_record(place: Place) -> None:
    (greedy, honest), bad = place.keys, json.dumps(chat_body("m", temperature="hot")).encode()
    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(lambda _: post(place.gateway, bad, key=greedy), range(400)))
        other = post_chat(place.gateway, PREFIX + "good", key=honest)
    assert other.status == 200
    statuses = Counter(one.status for one in seen)
    assert set(statuses) == {400, 429}
    refused = [one for one in seen if one.status == 429]
    assert {(one.error["type"], one.error["code"]) for one in refused} == {("rate_limit_error", "too_many_refusals")}
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    shared = Counter(one.request_id for one in refused)

    def get_shared_rows() -> list[dict[str, Any]]:
        rows = rows_where(place.url, "error_code", "too_many_refusals")
        return rows if len(rows) == len(shared) else []

    rows = wait_until(get_shared_rows, what="the rows that carry the count")
    assert {str(row["request_id"]): row["attempts"][0]["requests"] for row in rows} == shared
    assert {(row["key_id"], row["outcome"], row["status"]) for row in rows} == {(greedy.split("_")[1], "rejected", 429)}
    assert statuses[400] <= (len(shared) + 1) * MOST
    logged = [line for line in place.gateway.log().splitlines() if "too_many_refusals" in line]
    assert len(logged) == len(shared)
    assert post_chat(place.gateway, PREFIX + "good", key=honest).status == 200
    wait_until(lambda: post_chat(place.gateway, PREFIX + "good", key=greedy).status == 200, what="the next second")
    _wait_until_balanced(place)
    scraped = request("GET", place.gateway.url + "/metrics").body.decode()
    assert f'gateway_unrecorded_refusals_total{{route="/v1/chat/completions"}} {sum(shared.values())}.0' in scraped


def test_failures_of_a_provider_and_clients_that_leave_do_not_count_as_refused(place: Place) -> None:
    model, (greedy, _) = PREFIX + "odd-403-again", place.keys
    wait_until(lambda: post_chat(place.gateway, PREFIX + "good", key=greedy).status == 200, what="the next second")
    place.upstream.on_model(model, KEY_REFUSED)
    assert [post_chat(place.gateway, model, key=greedy).status for _ in range(5)] == [403] * 5, "these were sent"
    with ThreadPoolExecutor(16) as pool:
        fast = Counter(pool.map(lambda _: post_chat(place.gateway, model, key=greedy).status, range(100)))
    assert fast == {403: 100} and place.count_chats(model) <= 7

    def leave(_: int) -> None:
        with _send_head(place, greedy, 9) as connection:
            connection.sendall(b"half")

    before = len(rows_where(place.url, "outcome", "client_gone"))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(leave, range(100)))
        assert {post_chat(place.gateway, PREFIX + "good", key=greedy).status for _ in range(5)} == {200}
    wait_until(
        lambda: len(rows_where(place.url, "outcome", "client_gone")) - before == 100, what="a row for each that left"
    )
    _wait_until_balanced(place)


def test_requests_that_were_being_read_when_the_second_was_full_share_the_record_too(place: Place) -> None:
    key, bad = place.keys[0], json.dumps(chat_body("m", temperature="hot")).encode()
    wait_until(lambda: post_chat(place.gateway, PREFIX + "good", key=key).status == 200, what="the next second")
    key_id = key.split("_")[1]
    before = Counter(
        row["error_code"] for row in rows_where(place.url, "key_id", key_id) if row["status"] in {400, 429}
    )
    open_requests = [_send_head(place, key, len(bad)) for _ in range(200)]
    for connection in open_requests:
        connection.sendall(bad[:-1])
    for connection in open_requests:
        connection.sendall(bad[-1:])
    heads = [connection.makefile("rb").read().partition(b"\r\n\r\n")[0] for connection in open_requests]
    for connection in open_requests:
        connection.close()
    statuses = Counter(int(head.split()[1]) for head in heads)
    shared = {line for head in heads if b" 429 " in head for line in head.split(b"\r\n") if b"x-request-id" in line}
    assert set(statuses) == {400, 429} and statuses[400] <= MOST * (len(shared) + 1)
    wait_until(
        lambda: (
            len(rows_where(place.url, "error_code", "too_many_refusals")) >= before["too_many_refusals"] + len(shared)
        ),
        what="the shared rows",
    )
    _wait_until_balanced(place)
    rows = [row for row in rows_where(place.url, "key_id", key_id) if row["status"] in {400, 429}]
    assert len(rows) - sum(before.values()) == statuses[400] + len(shared)
    assert post_chat(place.gateway, PREFIX + "good", key=key).status == 200


def _send_head(place: Place, key: str, length: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", place.gateway.port), timeout=20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: g\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n"
    connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
    return connection


def _wait_until_balanced(place: Place) -> None:
    def is_settled() -> bool:
        found = _get(place, "/api/activity/integrity")
        return bool(found["balanced"]) and found["in_flight"] == found["unshipped"] == 0 and found["started"] > 0

    wait_until(is_settled, what="a balanced ledger")


def test_refusals_by_a_limit_count_as_all_others_do(place: Place) -> None:
    key = make_limited_key(place.url, ("tokens", 1))
    with ThreadPoolExecutor(16) as pool:
        seen = list(pool.map(lambda _: post_chat(place.gateway, PREFIX + "good", key=key, max_tokens=9), range(200)))
    codes = Counter(one.error["code"] for one in seen)
    assert codes.keys() == {"insufficient_quota", "too_many_refusals"}

    def count_recorded() -> Counter[str]:
        rows = rows_where(place.url, "key_id", key.split("_")[1])
        counts = ((row["error_code"], row["attempts"]) for row in rows)
        return Counter(code for code, attempts in counts for _ in range(attempts[0]["requests"] if attempts else 1))

    wait_until(lambda: count_recorded() == codes, what="a record of each, or of many together")


@pytest.mark.long_form
def test_lookups_of_unknown_keys_delay_neither_known_keys_nor_readiness(place: Place) -> None:
    count = 600 if FULL else 150
    greedy, fresh = place.keys[0], _insert_key(place.url, "fresh")
    body = json.dumps(chat_body("m")).encode()

    def knock(_: int) -> Seen:
        return post(place.gateway, body, key=new_key())

    with ThreadPoolExecutor(300) as pool:
        unknown = [pool.submit(knock, number) for number in range(count)]
        ready = [request("GET", place.gateway.url + "/ready").json["database"] for _ in range(5)]
        known = [post_chat(place.gateway, PREFIX + "good", key=greedy).status for _ in range(5)]
        new = post_chat(place.gateway, PREFIX + "good", key=fresh).status
        seen = Counter(one.result().status for one in unknown)
    assert seen == {401: count}
    assert ready == [{"reachable": True, "schema": "current"}] * 5
    assert known == [200] * 5 and new == 200


def test_a_worker_that_stops_writes_the_record_of_the_refusals_that_it_still_counts(place: Place) -> None:
    key = place.keys[1]
    before = len(rows_where(place.url, "error_code", "too_many_refusals"))
    bad = json.dumps(chat_body("m", temperature="hot")).encode()
    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(pool.map(lambda _: post(place.gateway, bad, key=key).status, range(200)))
    place.gateway.stop()
    rows = rows_where(place.url, "error_code", "too_many_refusals")
    assert sum(row["attempts"][0]["requests"] for row in rows[before:]) == statuses[429] > 0
