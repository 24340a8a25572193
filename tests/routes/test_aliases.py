"""Operators name models: effects, refusals, warnings and audit entries of each change; and who sees the names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import load_settings
from app.errors import Unavailable
from app.runtime import get_component, use_settings
from app.services.aliases import Aliases
from app.services.models import get_model_list
from app.services.providers import PROVIDERS
from tests.routes.test_administration import Api
from tests.support.catalogs import provider_environment
from tests.support.chat import PREFIX
from tests.support.gateway import base_settings
from tests.support.limited_keys import make_limited_key
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.sdks import anthropic, openai
from tests.support.waiting import wait_until

KIMI = "fireworks/kimi-k3"
FLASH = "deepinfra/zai-org/GLM-5.3-Flash"


@pytest.fixture(scope="module")
def url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """The address of a database for the tests of this file."""
    url = postgres.create_database(template=migrated_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def client(url: str, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """Flask's client for an application in this process, before two providers whose lists are loaded."""
    providers = provider_environment(sandbox.url, ("fireworks", "deepinfra"), key="sandbox")
    place = tmp_path_factory.mktemp("aliases")
    app = create_app(load_settings(base_settings(place, url) | providers))
    wait_until(_has_lists, what="the lists of models")
    yield app.test_client()
    use_settings(None)


def _has_lists() -> bool:
    """Returns whether both lists are loaded; on a busy machine, loading takes longer than a request waits for it."""
    try:
        return all(get_model_list(PROVIDERS[name]) for name in ("fireworks", "deepinfra"))
    except Unavailable:
        return False


@pytest.fixture
def api(client: FlaskClient) -> Iterator[Api]:
    """The interface with GATEWAY_API_KEY. Each test's aliases are removed after it."""
    api = Api(client)
    yield api
    for alias in api.get("aliases")["data"]:
        assert api("DELETE", f"aliases/{alias['name']}")[0] == 200
    get_component(Aliases).refresh()


def test_an_alias_is_made_changed_shown_and_deleted(api: Api) -> None:
    overrides = {"temperature": 0.2, "response_format": {"type": "json_object"}}
    made = api.make("aliases", name="Claude-Sonnet", targets=[KIMI, {"name": FLASH}], overrides=overrides)
    alias = made["data"]
    plain = [{"name": KIMI, "weight": None}, {"name": FLASH, "weight": None}]
    assert made == {"object": "alias", "data": alias}
    assert alias == {
        "name": "claude-sonnet",
        "targets": plain,
        "sort": None,
        "overrides": overrides,
        "created_at": alias["created_at"],
    }
    assert api.get("aliases/CLAUDE-sonnet")["data"] == alias
    other = api.make("aliases", name="team/cheap", targets=[f"{PREFIX}kimi-k3", FLASH], sort="price")["data"]
    assert api.get("aliases") == {"object": "list", "data": [alias, other], "has_more": False}
    assert api.get("aliases/team%2Fcheap") == api.get("aliases/team/cheap")

    path = "aliases/claude-sonnet"
    assert api.patch(path, sort="latency") == alias | {"sort": "latency"}
    assert api.patch(path, sort=None, overrides={}) == alias | {"overrides": {}}
    weighted = api.patch(path, targets=["FIREWORKS/kimi-k3", {"name": FLASH, "weight": 3}])
    assert weighted["targets"] == [{"name": KIMI, "weight": 1}, {"name": FLASH, "weight": 3}]
    assert api.patch(path, targets=weighted["targets"]) == weighted
    status, gone = api("DELETE", path)
    assert (status, gone) == (200, {"object": "alias", "data": weighted, "deleted": True})
    for method in ("GET", "PATCH", "DELETE"):
        body = {"sort": "price"} if method == "PATCH" else {}
        assert api.refuse(method, path, **body)[:2] == (404, "alias")

    events = api.get("audit?object=alias:claude-sonnet")["data"]
    assert [(event["action"], event["actor"]) for event in events] == [
        (f"alias.{action}", "env") for action in ("delete", "change", "change", "change", "create")
    ], "a change that changed nothing is not there"
    assert events[0]["before"] == {name: value for name, value in weighted.items() if name != "created_at"}
    assert events[1]["after"] == {"name": "claude-sonnet", "targets": weighted["targets"]}
    assert events[1]["before"] == {"name": "claude-sonnet", "targets": plain}
    assert events[3]["before"] == {"name": "claude-sonnet", "sort": None}
    assert events[4]["before"] is None and events[4]["after"]["overrides"] == overrides


def deep(levels: int) -> Any:
    """Returns an object that is nested so many levels deep."""
    return {} if levels == 1 else {"a": deep(levels - 1)}


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no target": ({"targets": []}, "targets", "at least one target"),
    "nine targets": ({"targets": [f"{KIMI}-{n}" for n in range(9)]}, "targets", "at most 8 targets, not 9"),
    "the same twice": ({"targets": [KIMI, "Fireworks/kimi-k3"]}, "targets", "twice"),
    "no provider": ({"targets": ["moonshotai/Kimi-K3"]}, "targets", "Write <provider>/<model>, with one of: fireworks"),
    "only a provider": ({"targets": ["fireworks/"]}, "targets", "does not say which provider"),
    "an alias": ({"targets": ["Taken"]}, "targets", "'Taken' is an alias itself"),
    "itself": ({"targets": ["new"]}, "targets", "'new' is an alias itself"),
    "a suffix of a target": ({"targets": [KIMI + ":Floor"]}, "targets", "ends in a routing suffix (:floor or :nitro)"),
    "no output": ({"overrides": {"max_tokens": 0}}, "overrides.max_tokens", "from 1 to 10,000,000"),
    "absurd output": ({"overrides": {"max_completion_tokens": 10**8}}, "overrides.max_completion_tokens", "from 1 to"),
    "an unprintable target": ({"targets": [KIMI + "\n"]}, "targets", "printable"),
    "a weight of 0": ({"targets": [{"name": KIMI, "weight": 0}]}, "targets", "above 0"),
    "a weight below 0": ({"targets": [{"name": KIMI, "weight": -1}]}, "targets", "above 0"),
    "a weight in a text": ({"targets": [{"name": KIMI, "weight": "1"}]}, "targets[0].weight", "must be"),
    "an unknown field": ({"targets": [{"name": KIMI, "share": 1}]}, "targets[0].share", "name, weight"),
    "another sort": ({"sort": "cheapest"}, "sort", "one of: price, latency, throughput"),
    "weights and a sort": ({"targets": [{"name": KIMI, "weight": 1}], "sort": "price"}, "sort", "contradict"),
    "a name that is taken": ({"name": "TAKEN"}, "name", "already"),
    "no name": ({"name": ""}, "name", "1 to"),
    "a long name": ({"name": "n" * 10_000}, "name", "1 to"),
    "a control character": ({"name": "a\tb"}, "name", "1 to"),
    "a step up": ({"name": "a/../b"}, "name", "1 to"),
    "an account": ({"name": "accounts/fireworks/models/x"}, "name", "has the form of a model of Fireworks"),
    "a provider's prefix": ({"name": "DeepInfra/x"}, "name", "what begins with deepinfra/"),
    "Anthropic's prefix": ({"name": "anthropic/x"}, "name", "what begins with anthropic/"),
    "a suffix": ({"name": "x:floor"}, "name", "ends in a routing suffix (:floor or :nitro)"),
    "too hot": ({"overrides": {"temperature": 9}}, "overrides.temperature", "be a number from 0 to 2"),
    "a text for a number": ({"overrides": {"max_tokens": "9"}}, "overrides.max_tokens", "whole number of at least"),
    "a wrong part": ({"overrides": {"reasoning": {"effort": 1}}}, "overrides.reasoning", "reasoning.effort"),
    "null": ({"overrides": {"top_p": None}}, "overrides.top_p", "Leave the field out"),
    "depth": ({"overrides": {"x": deep(40)}}, "overrides", "32 levels"),
    "size": ({"overrides": {"x": "x" * 20_000}}, "overrides", "16,384 bytes"),
    "NUL": ({"overrides": {"x": [["\0"]]}}, "overrides", "NUL"),
    **{
        field: ({"overrides": {field: value}}, f"overrides.{field}", "cannot be overridden")
        for field, value in {"model": "x", "messages": [], "stream": True, "provider": "x", "models": []}.items()
    },
}  # fmt: skip


def test_what_makes_no_sense_is_refused_in_a_sentence(api: Api, client: FlaskClient) -> None:
    api.make("aliases", name="taken", targets=[KIMI])
    for name, (fields, param, sentence) in REFUSED.items():
        body = {"name": "new", "targets": [KIMI]} | fields
        status, refused_param, message = api.refuse("POST", "aliases", **body)
        expected = 409 if name == "a name that is taken" else 400
        assert (name, status, refused_param) == (name, expected, param), message
        assert sentence in message and message.count("\n") == 0, (name, message)
    nested = (
        b'{"name": "new", "targets": ["fireworks/x"], "overrides": {"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}}"
    )
    headers = {"Authorization": "Bearer gw_test_operator_key"}
    assert client.post("/api/aliases", data=nested, headers=headers).status_code == 400
    assert api.refuse("POST", "aliases", name="new")[1:] == (
        "targets",
        "An alias needs at least one target, as <provider>/<model>.",
    )
    status, _, message = api.refuse("PATCH", "aliases/taken")
    assert status == 400 and "The fields are: targets, sort, overrides" in message
    weighted = {"targets": [{"name": KIMI, "weight": 2}]}
    api.patch("aliases/taken", **weighted)
    assert "contradict" in api.refuse("PATCH", "aliases/taken", sort="price")[2]
    assert api.refuse("POST", "aliases?x=1", name="new", targets=[KIMI])[0] == 400
    assert len(api.get("aliases")["data"]) == 1


def test_what_may_be_a_mistake_is_a_warning(api: Api) -> None:
    targets = [KIMI, "deepinfra/nobody/nothing", "chutes/a/b", "fireworks/accounts/me/deployments/1"]
    made = api.make("aliases", name="zai-org/GLM-5.3-Flash", targets=targets)
    missing, unset, listed = made["warnings"]
    assert "'deepinfra/nobody/nothing' is in no list" in missing
    assert "CHUTES_API_KEY is not set" in unset
    assert "lists a model 'zai-org/glm-5.3-flash'" in listed


def test_only_operators_may(client: FlaskClient, url: str) -> None:
    user = Api(client, make_limited_key(url))
    for method, path in (("GET", "aliases"), ("POST", "aliases"), ("DELETE", "aliases/x")):
        assert user.refuse(method, path)[0] == 403


class Lists:
    """Requests for `/v1/models` with different keys."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client

    def get(self, path: str, key: str, **headers: str) -> Any:
        """Returns the response."""
        return self._client.get(f"/v1/models{path}", headers={"Authorization": f"Bearer {key}", **headers})

    def ids(self, key: str, path: str = "", **headers: str) -> list[str]:
        """Returns the ids of a list."""
        return [entry["id"] for entry in self.get(path, key, **headers).json["data"]]


def test_the_models_have_an_alias_for_whoever_may_use_a_target(api: Api, client: FlaskClient, url: str) -> None:
    lists, everything = Lists(client), make_limited_key(url)
    fireworks, other = (make_limited_key(url, models=[pattern]) for pattern in ("fireworks/*", "deepinfra/*"))
    before = lists.get("", everything).headers["etag"]
    without = lists.ids(everything)
    api.make("aliases", name="fast", targets=[KIMI], overrides={"n": 1})
    api.make("aliases", name="both", targets=[KIMI, FLASH])
    api.make("aliases", name="nobody", targets=["chutes/a/b"])
    api.make("aliases", name="zai-org/glm-5.3-flash", targets=[KIMI])
    get_component(Aliases).refresh()
    names = ["both", "fast", "zai-org/glm-5.3-flash"]
    assert lists.ids(everything)[:3] == names and lists.get("", everything).headers["etag"] != before
    assert "zai-org/GLM-5.3-Flash" in without
    assert set(lists.ids(everything)[3:]) == set(without) - {"zai-org/GLM-5.3-Flash"}, "the alias wins"
    assert [id for id in lists.ids(fireworks) if id in names] == names
    assert [id for id in lists.ids(other) if id.lower() in names] == ["both"]

    both, fast = (lists.get(f"/{name}", everything).json for name in ("both", "FAST"))
    assert lists.get("", everything).json["data"][0] == both
    model = openai.types.Model
    model.model_validate({name: both[name] for name in model.model_fields if name in both}, strict=True)
    info = {name: both[name] for name in anthropic.types.ModelInfo.model_fields if name in both}
    anthropic.types.ModelInfo.model_validate_json(json.dumps(info))
    assert (both["id"], both["owned_by"], both["display_name"]) == ("both", "gateway", "both")
    assert fast["context_length"] == fast["max_input_tokens"] == 1_048_576 > both["context_length"] == 202_752
    refused = lists.get("/fast", other)
    assert (refused.status_code, refused.json["error"]["code"]) == (403, "model_not_allowed")
    assert lists.get("/nobody", everything).status_code == 403

    claude = {"anthropic-version": "2023-06-01"}
    expected = [name for each in names for name in (each, f"anthropic/{each}")]
    assert lists.ids(everything, **claude)[:6] == expected
    assert lists.ids(everything, "?limit=2&after_id=both", **claude) == expected[1:3]
    assert lists.get("/anthropic/fast", everything).json == fast | {"id": "anthropic/fast"}
    api("DELETE", "aliases/fast")
    get_component(Aliases).refresh()
    assert "fast" not in lists.ids(everything) and lists.get("/fast", everything).status_code == 404
