"""Operators manage keys, holders, groups and budgets over HTTP: effects, refusals and audit entries of changes."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from app.db import get_engine
from app.services.models import get_model_list
from app.services.providers import PROVIDERS
from tests.support.gateway import GATEWAY_KEY


class Api:
    """Calls the interface with a key; each call returns the status and the body."""

    def __init__(self, client: FlaskClient, key: str = GATEWAY_KEY) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {key}"}

    def __call__(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        sent = {"json": body} if method in {"POST", "PATCH"} else {}
        response = self._client.open(f"/api/{path}", method=method, headers=self._headers, **sent)  # type: ignore[arg-type]
        return response.status_code, response.get_json()

    def get(self, path: str) -> Any:
        """Returns the body of a GET that succeeds."""
        status, body = self("GET", path)
        assert status == 200, body
        return body

    def make(self, path: str, **body: Any) -> Any:
        """Returns the body of a POST that makes something."""
        status, made = self("POST", path, **body)
        assert status == 201, made
        return made

    def patch(self, path: str, **body: Any) -> Any:
        """Returns the object after a PATCH that succeeds."""
        status, changed = self("PATCH", path, **body)
        assert status == 200, changed
        return changed["data"]

    def refuse(self, method: str, path: str, **body: Any) -> tuple[int, str | None, str]:
        """Returns the status, the param and the message of a request that is refused."""
        status, refused = self(method, path, **body)
        assert status >= 400, refused
        error = refused["error"]
        return status, error["param"], error["message"]


@pytest.fixture
def api(client: FlaskClient) -> Api:
    """The interface with GATEWAY_API_KEY."""
    return Api(client)


def _events(api: Api, query: str = "") -> list[tuple[str, str]]:
    return [(event["action"], event["object"]) for event in api.get(f"audit{query}")["data"]]


def test_a_key_is_made_changed_rotated_and_revoked(api: Api, client: FlaskClient) -> None:
    group = api.make("groups", name="research", tokens_per_minute=100_000)["data"]
    made = api.make(
        "keys",
        name="alice",
        group="research",
        budgets=["50/month", {"amount": 5, "window": "day", "timezone": "Europe/Berlin", "warn_percents": [95, 80]}],
        requests_per_minute=60,
        models=["fireworks/*", "*/deepseek-v3p1"],
        expires_at="2099-01-31T00:00:00+01:00",
    )
    key, data = made["key"], made["data"]
    assert key.startswith(f"gw_{data['id']}_") and data["last_four"] == key[-4:]
    assert (data["holder"], data["group"], data["requests_per_minute"]) == ("alice", "research", 60)
    assert (data["expires_at"], data["is_operator"]) == ("2099-01-30T23:00:00Z", False)
    month, day = data["budgets"]
    assert (month["amount"], month["unit"], month["window"], month["remaining"]) == (50, "usd", "month", 50)
    assert (day["timezone"], day["warn_percents"], day["used_percent"]) == ("Europe/Berlin", [80, 95], 0)
    assert datetime.fromisoformat(day["resets_at"]) > datetime.now(UTC) >= datetime.fromisoformat(day["starts_at"])
    assert api.get(f"groups/{group['id']}")["data"]["holders"] == 1
    assert api.get("groups/research")["data"]["tokens_per_minute"] == 100_000

    path = f"keys/{data['id']}"
    budgets = ["60/month", "1k-requests/24h"]
    changed = api.patch(path, name="alice 2", requests_per_minute=None, concurrent=8, budgets=budgets)
    assert (changed["name"], changed["requests_per_minute"], changed["concurrent"]) == ("alice 2", None, 8)
    assert [(each["id"] == month["id"], each["amount"], each["window"]) for each in changed["budgets"]] == [
        (True, 60, "month"),
        (False, 1000, "rolling:24h"),
    ]
    assert changed == api.get(path)["data"], "the models and the expiry stay"
    week = {"amount": 9, "window": "week"}
    berlin = api.patch(path, budgets=[*budgets, week | {"timezone": "Europe/Berlin"}])["budgets"][2]
    kept = api.patch(path, budgets=[*budgets, "8/week"])["budgets"][2]
    assert (kept["id"], kept["amount"], kept["timezone"]) == (berlin["id"], 8, "Europe/Berlin")
    moved = api.patch(path, budgets=[*budgets, week | {"timezone": "UTC"}])["budgets"][2]
    assert moved["id"] != kept["id"] and moved["timezone"] == "UTC", "its weeks begin at other times"
    assert api.patch(path, budgets=budgets) == changed
    assert api.patch(path, name="alice 2") == changed

    further = api.make("keys", name="alice's phone", holder="alice")["data"]
    assert further["budgets"] == changed["budgets"] and further["concurrent"] == 8
    new = api.make("keys", name="bob's phone", holder="bob", concurrent=1)
    assert new["data"]["holder"] == "bob" and new["warnings"] == ["There was no holder 'bob', so a new one was made."]
    rotated = api.make(f"{path}/rotate", overlap_s=3600)
    replaced = api.get(path)["data"]
    assert replaced["replaced_by"] == rotated["data"]["id"] and rotated["data"]["expires_at"] == data["expires_at"]
    left = datetime.fromisoformat(replaced["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert rotated["data"]["budgets"] == changed["budgets"]
    _, endless = api("PATCH", path, expires_at=None)
    assert endless["data"]["expires_at"] is None and len(endless["warnings"]) == 1
    assert f"{data['id']} was replaced by {rotated['data']['id']}" in endless["warnings"][0]
    assert "warnings" not in api("PATCH", path, expires_at="2098-01-01T00:00:00Z")[1]
    assert "warnings" not in api("PATCH", f"keys/{further['id']}", expires_at=None)[1], "nothing replaces it"
    status, param, message = api.refuse("POST", f"{path}/rotate")
    assert status == 409 and rotated["data"]["id"] in message

    for _ in range(2):
        assert api("DELETE", path)[1]["data"]["revoked_at"]
    assert api.refuse("PATCH", path, expires_at="2098-01-01T00:00:00Z")[0] == 409
    assert api.refuse("POST", f"{path}/rotate")[0] == 409
    assert {each["id"] for each in api.get("keys?holder=alice")["data"]} == {
        data["id"],
        further["id"],
        rotated["data"]["id"],
    }
    assert api.get("keys?group=research") == api.get("keys?holder=alice")

    secrets = (key, rotated["key"])
    assert not any(secret in json.dumps(api.get("audit?limit=1000")) for secret in secrets)
    listed = json.dumps([api.get("keys"), api.get(path)])
    assert not any(secret in listed for secret in secrets)
    assert _events(api, f"?object=key:{data['id']}") == [
        (f"key.{action}", f"key:{data['id']}")
        for action in ("revoke", "change", "change", "rotate", "change", "create")
    ]
    holder_events = [
        event
        for event in api.get("audit")["data"]
        if event["action"].startswith("holder.") and event["after"]["name"] == "alice"
    ]
    assert [event["action"] for event in holder_events] == ["holder.change"] * 5 + ["holder.create"]
    change = holder_events[4]
    assert change["actor"] == "env" and change["before"].keys() == change["after"].keys()
    assert change["before"].keys() == {"name", "requests_per_minute", "concurrent", "budgets"}
    assert [each["amount"] for each in change["after"]["budgets"]] == ["60", "1000"]


def test_a_holder_is_made_renamed_moved_and_deleted(api: Api) -> None:
    api.make("groups", name="research")
    status, made = api("POST", "holders", name="alice/bob", group="research", concurrent=3, budgets=["5/month"])
    assert status == 201 and made["object"] == "holder"
    data = made["data"]
    assert (data["name"], data["group"], data["concurrent"], data["keys"]) == ("alice/bob", "research", 3, [])
    keys = [api.make("keys", name=name, holder="alice/bob")["data"] for name in ("phone", "laptop")]
    renamed = api.patch("holders/alice/bob", name="alice", requests_per_minute=60)
    assert (renamed["id"], renamed["name"], renamed["concurrent"]) == (data["id"], "alice", 3)
    assert [key["name"] for key in renamed["keys"]] == ["phone", "laptop"]
    assert api.patch(f"holders/{data['id']}", group=None)["group"] is None
    assert api.get(f"holders/{data['id']}") == api.get("holders/alice")
    assert api.get("keys?holder=alice")["data"][0]["holder"] == "alice"
    for name in ("bea", "cyd"):
        api.make("holders", name=name, group="research")
    first = api.get("holders?limit=2")
    assert [each["name"] for each in first["data"]] == ["alice", "bea"] and first["has_more"]
    last = api.get(f"holders?limit=2&cursor={first['next_cursor']}")
    assert [each["name"] for each in last["data"]] == ["cyd"] and last["next_cursor"] is None
    assert [each["name"] for each in api.get("holders?group=research")["data"]] == ["bea", "cyd"]
    assert api.refuse("PATCH", "holders/bea", name="cyd")[:2] == (409, "name")
    status, _, message = api.refuse("DELETE", "holders/alice")
    assert status == 409 and f"has the key {keys[0]['id']} and 1 more. Revoke" in message
    for key in keys:
        api("DELETE", f"keys/{key['id']}")
    status, deleted = api("DELETE", "holders/alice")
    assert status == 200 and deleted["deleted"] and deleted["data"]["name"] == "alice"
    assert api.refuse("GET", "holders/alice")[:2] == (404, "holder")
    assert api.get(f"keys/{keys[0]['id']}")["data"]["holder"] is None
    assert not [each for each in api.get("budgets")["data"] if each["name"] == "alice"]
    events = [action for action, _ in _events(api, f"?object=holder:{data['id']}")]
    assert events == ["holder.delete", "holder.change", "holder.change", "holder.create"]
    changed = api.get(f"audit?object=key:{keys[0]['id']}&limit=1")["data"][0]
    assert (changed["before"]["holder"], changed["after"]["holder"]) == ("alice", None)


def test_operators_are_people_and_others_are_refused(api: Api, client: FlaskClient) -> None:
    carol = api.make("keys", name="carol", is_operator=True)
    user = api.make("keys", name="dave")
    as_carol, as_user = Api(client, carol["key"]), Api(client, user["key"])
    made = as_carol.make("groups", name="team", concurrent=3)["data"]
    assert as_carol.get("audit?action=group.create")["data"][0]["actor"] == carol["data"]["id"]
    assert as_carol.get(f"audit?actor={carol['data']['id']}")["data"][0]["object"] == f"group:{made['id']}"
    for method, path in [
        ("GET", "keys"), ("POST", "keys"), ("GET", "keys/x"), ("PATCH", "keys/x"), ("DELETE", "keys/x"),
        ("POST", "keys/x/rotate"), ("GET", "groups"), ("POST", "groups"), ("GET", "groups/team"),
        ("PATCH", "groups/team"), ("DELETE", "groups/team"), ("GET", "holders"), ("POST", "holders"),
        ("GET", "holders/x"), ("PATCH", "holders/x"), ("DELETE", "holders/x"), ("GET", "limits"), ("PATCH", "limits"),
        ("GET", "budgets"), ("GET", "budgets/1"), ("POST", "budgets/1/raise"), ("DELETE", "budgets/1"),
        ("GET", "audit"),
    ]:  # fmt: skip
        status, _, message = as_user.refuse(method, path)
        assert status == 403 and "--operator" in message, (method, path)
        assert client.open(f"/api/{path}", method=method).status_code == 401
    status, param, message = api.refuse("POST", "keys", name="eve", is_operator=True, concurrent=1)
    assert (status, param) == (400, "is_operator")
    assert api.refuse("PATCH", f"keys/{carol['data']['id']}", concurrent=1)[0] == 400
    assert api.patch(f"keys/{carol['data']['id']}", name="Carol")["is_operator"] is True


DAY = {"amount": 1, "window": "day"}
REFUSED: list[tuple[str, str, dict[str, Any], int, str | None, str]] = [
    ("POST", "keys", {"name": "a", "rpm": 5}, 400, "rpm", "requests_per_minute"),
    ("POST", "keys", {}, 400, "name", "`name` is required."),
    ("POST", "keys", {"name": ""}, 400, "name", "printable"),
    ("POST", "keys", {"name": 5}, 400, "name", "a string, not a whole number"),
    ("POST", "keys", {"name": "a", "requests_per_minute": 0}, 400, "requests_per_minute", "at least 1"),
    ("POST", "keys", {"name": "a", "concurrent": -1}, 400, "concurrent", "at least 1"),
    ("POST", "keys", {"name": "a", "models": "x"}, 400, "models", "a list"),
    ("POST", "keys", {"name": "a", "models": ["deepseek-v3p1"]}, 400, "models", "'*/deepseek-v3p1'"),
    ("POST", "keys", {"name": "a", "models": [""]}, 400, "models", "1 to 300"),
    ("POST", "keys", {"name": "a", "group": "none"}, 404, "group", "no group 'none'"),
    ("POST", "keys", {"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, 400, "expires_at", "is over"),
    ("POST", "keys", {"name": "a", "expires_at": "soon"}, 400, "expires_at", "2027-01-31T00:00:00Z"),
    ("POST", "keys", {"name": "a", "expires_at": "2030-01-01"}, 400, "expires_at", "2027-01-31T00:00:00Z; a day alone"),
    ("POST", "keys", {"name": "a", "expires_at": "0001-01-01T00:00:00+14:00"}, 400, "expires_at", "years 1 to 9999"),
    ("POST", "keys", {"name": "a", "expires_at": "9999-12-31T23:59:59-14:00"}, 400, "expires_at", "years 1 to 9999"),
    ("POST", "keys", {"name": "a\0"}, 400, "name", "NUL"),
    ("POST", "keys", {"name": "a", "group": "\0"}, 400, "group", "NUL"),
    ("POST", "keys", {"name": "a", "models": ["*/\0"]}, 400, "models", "NUL"),
    ("POST", "keys", {"name": "a", "budgets": [{"amount": 1, "window": "day\0"}]}, 400, "window", "NUL"),
    ("POST", "keys", {"name": "a", "holder": "alcie"}, 404, "holder", "no holder 'alcie'. Correct the name; to make"),
    ("PATCH", "limits", {}, 400, None, "nothing to change. The fields are: models, requests_per_minute"),
    ("PATCH", "keys/none", {}, 400, None, "budgets, group, name, expires_at"),
    ("GET", "keys/%00", {}, 404, None, "no path '/api/keys/\\x00'"),
    ("DELETE", "keys/a%00", {}, 404, None, "no path"),
    ("PATCH", "keys/%00", {"name": "a"}, 404, None, "no path"),
    ("POST", "keys/%00/rotate", {}, 404, None, "no path"),
    ("GET", "groups/%00", {}, 404, None, "no path"),
    ("DELETE", "groups/a/b%00", {}, 404, None, "no path"),
    ("GET", "activity/%00", {}, 404, None, "no path"),
    ("GET", "keys?holder=%00", {}, 400, "holder", "NUL"),
    ("GET", "audit?object=%00", {}, 400, "object", "NUL"),
    ("GET", "activity?key=%00", {}, 400, "key", "NUL"),
    ("GET", f"keys?cursor={base64.urlsafe_b64encode(bytes(10)).decode()}", {}, 400, "cursor", "next_cursor"),
    ("DELETE", f"budgets/{2**63}", {}, 404, "budget", "no budget 9223372036854775808"),
    ("POST", "keys", {"name": "a", "budgets": ["50"]}, 400, "budgets", "such as 50/month"),
    ("POST", "keys", {"name": "a", "budgets": ["0/month"]}, 400, "budgets", "above 0"),
    ("POST", "keys", {"name": "a", "budgets": ["5/year"]}, 400, "budgets", "day, week, month, total, 24h, 30d"),
    ("POST", "keys", {"name": "a", "budgets": ["1.5-requests/day"]}, 400, "budgets", "no fraction"),
    ("POST", "keys", {"name": "a", "budgets": ["5/day", "6/day"]}, 400, "budgets", "two of usd"),
    ("POST", "keys", {"name": "a", "budgets": [DAY | {"zone": "UTC"}]}, 400, "budgets[0].zone", "timezone"),
    ("POST", "keys", {"name": "a", "budgets": [DAY | {"timezone": "Mars"}]}, 400, "budgets", "time zone"),
    ("POST", "keys", {"name": "a", "budgets": [DAY | {"first_day": 2}]}, 400, "budgets", "Monday"),
    ("POST", "keys", {"name": "a", "budgets": [DAY | {"amount": "NaN"}]}, 400, "budgets", "above 0"),
    ("PATCH", "keys/none", {"name": "a"}, 404, "key", "no key"),
    ("POST", "keys/none/rotate", {}, 404, "key", "no key"),
    ("POST", "keys/none/rotate", {"overlap": 5}, 400, "overlap", "overlap_s"),
    ("DELETE", "keys/none", {}, 404, "key", "no key"),
    ("GET", "keys?holder=none", {}, 404, "holder", "no holder"),
    ("GET", "keys?cursor=x", {}, 400, "cursor", "next_cursor"),
    ("GET", "holders?cursor=x", {}, 400, "cursor", "next_cursor"),
    ("GET", "holders?cursor=AA==", {}, 400, "cursor", "next_cursor"),
    ("GET", "holders/none", {}, 404, "holder", "`bin/gateway holders list`"),
    ("PATCH", "holders/none", {"name": "a"}, 404, "holder", "no holder"),
    ("PATCH", "holders/none", {}, 400, None, "budgets, group, name"),
    ("DELETE", "holders/%00", {}, 404, None, "no path"),
    ("POST", "holders", {"group": "a"}, 400, "name", "required"),
    ("POST", "holders", {"name": "a", "group": "none"}, 404, "group", "no group 'none'"),
    ("GET", "keys?name=a", {}, 400, "name", "holder, group, search, state, limit, cursor"),
    ("PATCH", "limits", {"group": "a"}, 400, "group", "models"),
    ("POST", "budgets/1/raise", {"amount": 5}, 404, "budget", "no budget 1"),
    ("GET", "audit?from=2026-01-02&to=2026-01-01", {}, 400, "from", "before"),
    ("GET", "audit?cursor=x", {}, 400, "cursor", "next_cursor"),
]  # fmt: skip


def test_mistakes_are_refused_in_a_sentence_and_change_nothing(api: Api, client: FlaskClient) -> None:
    for method, path, body, status, param, part in REFUSED:
        got_status, got_param, message = api.refuse(method, path, **body)
        assert (got_status, got_param) == (status, param) and part in message, (path, body, got_param, message)
        assert message.endswith(".") and "\n" not in message
    for content, param, code in [
        ('{"name": "a", "concurrent": 1, "concurrent": 2}', "concurrent", "duplicate_key"),
        ('{"name": "a", "budgets": [{"amount": 1, "window": "day", "amount": 2}]}', "amount", "duplicate_key"),
        ('{"name": "a\\ud800"}', None, "invalid_json"),
    ]:
        response = client.post("/api/keys", headers={"Authorization": f"Bearer {GATEWAY_KEY}"}, data=content)
        error = response.get_json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, param, code), content
    assert api.get("keys")["data"] == [] and _events(api) == []


def test_names_are_taken_once_also_by_two_at_once(api: Api, client: FlaskClient) -> None:
    def make(number: int) -> int:
        return Api(client.application.test_client())("POST", "groups", name="team")[0]

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(make, range(6))) == [201, 409, 409, 409, 409, 409]
    assert _events(api) == [("group.create", f"group:{api.get('groups')['data'][0]['id']}")]
    status, param, message = api.refuse("POST", "groups", name="team")
    assert (status, param) == (409, "name") and "'team'" in message
    other = api.make("groups", name="other")["data"]
    assert api.refuse("PATCH", f"groups/{other['id']}", name="team", concurrent=9)[0] == 409
    assert api.get("groups/other")["data"]["concurrent"] is None

    api.make("keys", name="alice", concurrent=1)
    assert api.refuse("POST", "keys", name="alice", concurrent=2)[:2] == (409, "name")
    assert api.refuse("POST", "keys", name="b", holder="alice", concurrent=2)[:2] == (400, "holder")
    assert api.make("keys", name="alice")["data"]["holder"] is None, "keys may share a name"


def test_two_changes_at_once_are_both_made_and_audited(api: Api, client: FlaskClient) -> None:
    path = f"keys/{api.make('keys', name='alice', concurrent=1)['data']['id']}"

    def change(number: int) -> int:
        field = "requests_per_minute" if number % 2 else "tokens_per_minute"
        body = {field: number + 1, "budgets": [f"{number + 1}/day"]}
        return Api(client.application.test_client())("PATCH", path, **body)[0]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(change, range(12))) == [200] * 12
    data = api.get(path)["data"]
    assert data["requests_per_minute"] and data["tokens_per_minute"] and len(data["budgets"]) == 1
    changes = [event for event in api.get("audit")["data"] if event["action"] == "holder.change"]
    assert len(changes) == 12
    for later, earlier in zip(changes, changes[1:], strict=False):
        assert later["before"]["budgets"] == earlier["after"]["budgets"], "each began where the one before ended"


def test_a_group_is_deleted_only_when_it_is_empty(api: Api) -> None:
    group = api.make("groups", name="a/b", budgets=["5/day"])["data"]
    path = f"keys/{api.make('keys', name='alice', group='a/b')['data']['id']}"
    status, _, message = api.refuse("DELETE", "groups/a/b")
    assert status == 409 and "has a holder" in message
    api("DELETE", path)
    assert api.refuse("DELETE", "groups/a/b")[0] == 409, "a holder stays without keys"
    assert api.patch(path, group=None)["group"] is None
    api("POST", f"budgets/{group['budgets'][0]['id']}/raise", amount=1)
    assert api("DELETE", "groups/a/b")[0] == 200
    assert api.refuse("GET", "groups/a/b")[0] == 404 and api.get("budgets")["data"] == []
    deleted = api.get("audit?action=group.delete")["data"][0]
    assert deleted["before"]["budgets"][0]["amount"] == "5" and deleted["after"] is None


def test_budgets_show_what_is_charged_and_held_and_can_be_raised(api: Api) -> None:
    made = api.make("keys", name="alice", budgets=["10/month", "5-requests/total", "100/30d"])["data"]
    api.patch("limits", budgets=["1000/week"])
    month, total, rolling = made["budgets"]
    id = month["id"]
    assert api("POST", f"budgets/{id}/raise", amount="2.5")[1]["data"]["extra"] == 2.5
    _charge(id, month["starts_at"], drawn="9", exact="6", estimated="1.5", ceiling="0.5")
    rolling_start = datetime.fromisoformat(rolling["starts_at"]) + timedelta(days=30)
    unused = rolling_start + timedelta(days=31)
    assert datetime.fromisoformat(rolling["resets_at"]) == unused, "what is used now counts for 30 days after today"
    for days in (0, 30, 31):
        start = (rolling_start - timedelta(days=days)).isoformat()
        _charge(rolling["id"], start, drawn="40", exact="40", estimated="0", ceiling="0")

    state = api.get(f"budgets/{id}")["data"]
    assert (state["of"], state["name"], state["amount"], state["extra"]) == ("holder", "alice", 10, 2.5)
    assert state["charged"] == {"exact": 6, "estimated": 1.5, "ceiling": 0.5} and state["requests"] == 3
    assert (state["in_use"], state["remaining"], state["used_percent"]) == (1, 3.5, 64.0)
    used = api.get(f"budgets/{rolling['id']}")["data"]
    assert used["used_percent"] == 80.0, "what is 31 days old no longer counts"
    assert datetime.fromisoformat(used["resets_at"]) == rolling_start + timedelta(days=1), "the use of 30 days ago"
    assert [each["id"] for each in api.get("budgets?above=65")["data"]] == [rolling["id"]]
    every = api.get("budgets")["data"]
    assert [each["of"] for each in every] == ["holder", "holder", "holder", "gateway"]
    first = api.get("budgets?limit=3")
    assert first["data"] == every[:3] and first["has_more"]
    assert api.get(f"budgets?limit=3&cursor={first['next_cursor']}")["data"] == every[3:]
    assert total["resets_at"] is None and [each["id"] for each in api.get("keys")["data"][0]["budgets"]] == [
        month["id"], total["id"], rolling["id"],
    ]  # fmt: skip

    for amount in (0, "NaN", 1e30):
        assert api.refuse("POST", f"budgets/{id}/raise", amount=amount)[:2] == (400, "amount")
    assert api.refuse("POST", f"budgets/{total['id']}/raise", amount=0.5)[:2] == (400, "amount")
    assert api.refuse("POST", f"budgets/{id}/raise", amount=-3)[0] == 409
    assert api("POST", f"budgets/{id}/raise", amount=-2.5)[1]["data"]["extra"] == 0
    raises = list(api.get(f"audit?object=budget:{id}")["data"])
    assert [(event["before"]["extra"], event["after"]["extra"]) for event in raises] == [("2.5", "0"), ("0", "2.5")]
    assert api("DELETE", f"budgets/{id}")[0] == 200
    assert api.refuse("DELETE", f"budgets/{id}")[0] == 404
    assert api.get("keys")["data"][0]["budgets"][0]["id"] == total["id"]


def _charge(budget_id: int, start: str, **sums: str) -> None:
    period = budget_id << 32 | int(datetime.fromisoformat(start).timestamp()) // 60
    with get_engine().begin() as connection:
        connection.execute(
            text(
                "INSERT INTO budget_period (id, budget_id, start_at, granted) VALUES (:id, :budget, :start, :drawn)"
                " ON CONFLICT (id) DO UPDATE SET granted = excluded.granted"
            ),
            {"id": period, "budget": budget_id, "start": start, "drawn": sums.pop("drawn")},
        )
        connection.execute(
            text("INSERT INTO budget_charge VALUES (:id, 'w', :exact, :estimated, :ceiling, 3)"), {"id": period, **sums}
        )


def test_patterns_that_match_no_model_are_warned_of(api: Api, client: FlaskClient) -> None:
    get_model_list(PROVIDERS["fireworks"])
    patterns = ["fireworks/*", "*/DeepSeek-v3p1", "*/no-such-model", "firework/*"]
    made = api.make("keys", name="alice", models=patterns)
    assert made["warnings"] == ["No model of the configured providers is matched by '*/no-such-model', 'firework/*'."]
    assert made["data"]["models"] == patterns
    assert "warnings" not in api.make("groups", name="team", models=patterns[:2])


def test_lists_are_read_page_by_page(api: Api) -> None:
    made = [api.make("keys", name=f"key {number}")["data"] for number in range(5)]
    for path, whole in (("keys", [each["id"] for each in reversed(made)]), ("audit", None)):
        everything = [each["id"] for each in api.get(path)["data"]]
        assert len(everything) == 5 and (whole is None or everything == whole)
        seen, cursor = [], ""
        while cursor is not None:
            page = api.get(f"{path}?limit=2&cursor={cursor}")
            seen += [each["id"] for each in page["data"]]
            cursor = page["next_cursor"]
            assert page["has_more"] is (cursor is not None)
        assert seen == everything
    oldest = api.get("audit")["data"][-1]
    assert api.get(f"audit?to={oldest['at'].replace('+', '%2B')}")["data"] == []
    assert len(api.get("audit?from=2026-01-01")["data"]) == 5


def test_keys_are_found_by_a_part_of_name_id_or_holder_and_by_state(api: Api) -> None:
    for holder in ("Zoë B.", "zoo"):
        api.make("holders", name=holder)
    made = {
        name: api.make("keys", name=name, holder=holder)["data"]["id"]
        for name, holder in (("Nightly 100%", "Zoë B."), ("100 nights", "zoo"), ("other", "Zoë B."))
    }
    api("DELETE", f"keys/{made['other']}")

    def find(query: str) -> list[str]:
        return [each["name"] for each in api.get(f"keys?{query}")["data"]]

    id = made["100 nights"]
    assert find("search=NIGHT") == ["100 nights", "Nightly 100%"] and find("search=0%25") == ["Nightly 100%"]
    assert (
        find(f"search={id[2:].lower()}") == find(f"search=gw_{id}…abcd") == find(f"search=gw_{id}_x") == ["100 nights"]
    )
    assert find("search=zo%C3%AB") == ["other", "Nightly 100%"] and find("search=_") == []
    assert find("search=zo%C3%AB&state=works") == ["Nightly 100%"] and find("search=zo%C3%AB&state=expired") == []
    assert find("state=revoked&search=other&holder=Zo%C3%AB+B.") == ["other"]
    first = api.get("keys?search=night&limit=1")
    assert first["has_more"] and find(f"search=night&limit=1&cursor={first['next_cursor']}") == ["Nightly 100%"]
    assert api.refuse("GET", "keys?state=gone")[:2] == (400, "state")
