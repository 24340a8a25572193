"""One model over HTTP, in the catalog's form and in OpenAI's, by every name and with every encoding of its id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.runtime import get_settings
from tests.support.application import use_application
from tests.support.catalogs import (
    BASE_PATHS,
    FIREWORKS_LIST,
    catalogs_of,
    fireworks_rows,
    list_answer,
    plain_rows,
    provider_environment,
    root_of,
)
from tests.support.gateway import GATEWAY_KEY
from tests.support.scripted_upstream import ScriptedUpstream

DEEPSEEK = "accounts/fireworks/models/deepseek-v3p1"
ODD = "accounts/acme-example/models/bot#accounts/acme-example/deployments/f0e1@2"
KEY = {"Authorization": f"Bearer {GATEWAY_KEY}"}


@pytest.fixture
def client(upstream: ScriptedUpstream) -> Iterator[FlaskClient]:
    """The application with three providers: two of them serve `a/One`, and Fireworks lists an id with # and @."""
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1", "glm-5p3") + plain_rows(ODD)))
    upstream.on_path(BASE_PATHS["deepinfra"] + "/models", list_answer(plain_rows("a/One", "a/Two")))
    upstream.on_path(BASE_PATHS["chutes"] + "/models", list_answer(plain_rows("a/One")))
    with catalogs_of(provider_environment(root_of(upstream), ["fireworks", "deepinfra", "chutes"])):
        yield use_application(get_settings()).test_client()


def get(client: FlaskClient, path: str, status: int = 200) -> dict[str, Any]:
    """Returns the JSON of a GET with the key, after checking its status."""
    answer = client.get(path, headers=KEY)
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = json.loads(answer.text)
    return body


@pytest.mark.parametrize(
    "name",
    [
        DEEPSEEK,
        DEEPSEEK.replace("/", "%2F"),
        "accounts/fireworks/deepseek-v3p1",
        "fireworks/deepseek-v3p1",
        "deepseek-v3p1",
        "DeepSeek-V3.1",
        "deepseek-ai%2FDeepSeek-V3.1",
    ],
)
@pytest.mark.parametrize("query", ["", "?gateway=fireworks", "?gateway=all"])
def test_a_model_is_found_under_every_name(client: FlaskClient, name: str, query: str) -> None:
    body = get(client, f"/api/catalog/model/{name}{query}")

    assert body["data"]["id"] == DEEPSEEK
    assert {key for key in body if key != "data"} == {"gateway", "fetched_at", "age_s", "stale", "timestamp"}
    assert body["gateway"] == "fireworks"


def test_ids_with_a_hash_and_an_at_sign_are_found(client: FlaskClient) -> None:
    encoded = ODD.replace("/", "%2F").replace("#", "%23").replace("@", "%40")

    assert get(client, f"/api/catalog/model/{encoded}?gateway=fireworks")["data"]["id"] == ODD
    assert get(client, f"/v1/models/{encoded}")["id"] == ODD


@pytest.mark.parametrize("path", ["/api/catalog/model/", "/v1/models/"])
def test_an_unknown_model_is_a_404_with_the_nearest_names(client: FlaskClient, path: str) -> None:
    error = get(client, path + "deepseek-v3p2", 404)["error"]

    assert (error["type"], error["code"], error["param"]) == ("not_found_error", "model_not_found", "model")
    assert DEEPSEEK in error["message"]


def test_a_model_is_looked_for_only_at_the_gateway_that_is_named(client: FlaskClient) -> None:
    get(client, "/api/catalog/model/a/Two?gateway=deepinfra")
    get(client, "/api/catalog/model/a/Two?gateway=chutes", 404)
    assert get(client, "/api/catalog/model/a/One?gateway=chutes")["data"]["source_gateway"] == "chutes"


def test_a_model_that_several_gateways_serve_is_refused_without_one(client: FlaskClient) -> None:
    error = get(client, "/api/catalog/model/a/One", 400)["error"]

    assert error["code"] == "ambiguous_model"
    assert "deepinfra: a/One; chutes: a/One" in error["message"]


def test_a_name_that_is_too_long_is_refused(client: FlaskClient) -> None:
    for path in ("/api/catalog/model/", "/v1/models/"):
        assert get(client, path + "x" * 301, 400)["error"]["param"] == "model"


def test_an_unchanged_model_is_a_304(client: FlaskClient) -> None:
    path = "/api/catalog/model/glm-5p3"
    etag = client.get(path).headers["etag"]

    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert client.get("/api/catalog/model/deepseek-v3p1").headers["etag"] != etag


def test_openais_list_has_every_model_under_a_name_that_can_be_sent(client: FlaskClient) -> None:
    body = get(client, "/v1/models")

    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == [
        DEEPSEEK,
        "accounts/fireworks/models/glm-5p3",
        ODD,
        "deepinfra/a/One",
        "a/Two",
        "chutes/a/One",
    ]
    first = {name: body["data"][0][name] for name in ("id", "object", "created", "owned_by")}
    assert first == {"id": DEEPSEEK, "object": "model", "created": 1_786_406_400, "owned_by": "fireworks"}
    for entry in body["data"]:
        get(client, "/v1/models/" + entry["id"].replace("#", "%23"))


def test_openais_form_needs_a_key_and_the_catalog_does_not(client: FlaskClient) -> None:
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models/glm-5p3").status_code == 401
    assert client.get("/api/catalog/models").status_code == 200
    assert client.get("/api/catalog/model/glm-5p3").status_code == 200
