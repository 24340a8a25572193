"""The targets of a request: names that may lead to other providers, and names that may not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.errors import BadRequest, GatewayError, NotFound, PermissionDenied, Unavailable
from app.runtime import get_component
from app.services.endpoints import CHAT, ENDPOINTS, InferenceBody, ProviderChoice
from app.services.limits import Policy
from app.services.models import ModelList, cache, get_equivalents, refresh_if_due
from app.services.providers import PROVIDERS
from app.services.routing import Route, Routes
from tests.support.answers import json_answer
from tests.support.catalogs import (
    BASE_PATHS,
    PRICES_PATH,
    catalogs_of,
    fireworks_rows,
    list_answer,
    pages_answer,
    plain_rows,
    provider_environment,
    root_of,
)
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script
from tests.support.waiting import wait_until

NATIVE, OPEN = "accounts/fireworks/models/qwen3-8b", "Qwen/Qwen3-8B"
EMBEDDINGS = next(endpoint for endpoint in ENDPOINTS if endpoint.name == "embeddings")


def script_lists(upstream: ScriptedUpstream) -> None:
    quantized = [{"id": "acme/Heron", "quantization": "int4"}, {"id": OPEN + "-TEE", "root": OPEN}]
    lists: dict[str, Script] = {
        "fireworks": list_answer(fireworks_rows("qwen3-8b", "glm-5p3")),
        "featherless": pages_answer([plain_rows(OPEN, "acme/Lynx", "acme/Heron")]),
        "deepinfra": list_answer(plain_rows(OPEN, "acme/Lynx", "acme/Heron", "Kestrel", "acme/Owl")),
        "chutes": list_answer([*plain_rows("Kestrel"), *quantized]),
    }
    for name, script in lists.items():
        upstream.on_path(BASE_PATHS[name] + "/models", script)
    upstream.on_path(PRICES_PATH, list_answer([]))


@pytest.fixture(params=["false"])
def lists(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
    script_lists(upstream)
    with catalogs_of(provider_environment(root_of(upstream)) | {"ROUTING_EQUIVALENTS": request.param}):
        refresh_if_due()
        wait_until(lambda: len(get_equivalents(PROVIDERS["fireworks"], NATIVE)) == 3, what="the equivalents")
        yield


crossing = pytest.mark.parametrize("lists", ["true"], indirect=True)


def find(
    model: str = "",
    provider: str | ProviderChoice | None = None,
    models: tuple[str, ...] | None = None,
    policy: Policy | None = None,
) -> Route:
    return get_component(Routes).find_route(CHAT, InferenceBody(model, provider, models), policy)


def groups(route: Route) -> list[set[str]]:
    return [{f"{target.provider.name}/{target.model}" for target in group.targets} for group in route.groups]


TWO = {f"featherless/{OPEN}", f"deepinfra/{OPEN}"}
ALL = {f"fireworks/{NATIVE}", *TWO, f"chutes/{OPEN}-TEE"}


def test_an_id_that_several_list_has_them_as_targets(lists: None) -> None:
    assert groups(find(OPEN)) == [TWO]
    assert groups(find(OPEN.lower())) == [TWO]


@pytest.mark.parametrize(
    ("model", "provider"), [(NATIVE, None), (OPEN, "deepinfra"), (f"deepinfra/{OPEN}", None), ("acme/Owl", None)]
)
def test_nothing_else_crosses_providers(lists: None, model: str, provider: str | None) -> None:
    for suffix in ("", ":floor", ":nitro"):
        assert find(model + suffix, provider).is_fixed


def test_an_object_crosses_providers(lists: None) -> None:
    assert groups(find(OPEN, ProviderChoice())) == [ALL]
    assert groups(find(NATIVE, ProviderChoice())) == [{f"fireworks/{NATIVE}"}, ALL - {f"fireworks/{NATIVE}"}]
    assert groups(find(NATIVE, ProviderChoice(sort="latency"))) == [ALL]
    assert groups(find(NATIVE + ":nitro", ProviderChoice())) == [ALL]


def test_confidential_computing_is_never_left(lists: None) -> None:
    assert groups(find(OPEN + "-TEE", ProviderChoice())) == [{f"chutes/{OPEN}-TEE"}]


@crossing
def test_a_setting_crosses_providers_but_for_those_that_the_caller_names(lists: None) -> None:
    assert groups(find(OPEN)) == [ALL]
    assert groups(find(NATIVE)) == [{f"fireworks/{NATIVE}"}, ALL - {f"fireworks/{NATIVE}"}]
    assert find(OPEN, "featherless").is_fixed
    assert groups(find(f"deepinfra/{OPEN}"))[0] == {f"deepinfra/{OPEN}"}


def test_models_that_are_not_the_same_are_no_choice(lists: None) -> None:
    with pytest.raises(BadRequest, match=r"featherless: acme/Heron \(no quantization stated\)"):
        find("acme/Heron")
    with pytest.raises(BadRequest, match="Kestrel"):
        find("Kestrel")
    named = find("acme/Heron", ProviderChoice(order=("chutes", "deepinfra"), ignore=("featherless",)))
    assert groups(named) == [{"chutes/acme/Heron"}, {"deepinfra/acme/Heron"}]


def test_nearest_names_are_searched_for_only_if_the_client_gets_them(
    lists: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    get_nearest = ModelList.get_nearest
    monkeypatch.setattr(
        ModelList, "get_nearest", lambda self, name, count: searched.append(name) or get_nearest(self, name, count)
    )
    find("acme/Owl", models=("acme/Owls",))
    assert searched == []
    with pytest.raises(NotFound) as caught:
        find("acme/Owls", models=("acme/Lynxes",))
    assert "nearest names are: acme/Owl" in caught.value.to_dict()["error"]["message"]
    assert set(searched) == {"acme/Owls"}


def test_a_choice_is_not_refused_while_a_list_that_it_accepts_is_missing(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_lists(upstream)
    upstream.on_path(BASE_PATHS["chutes"] + "/models", json_answer({}, 503))
    with catalogs_of(provider_environment(root_of(upstream))):
        for choice in (ProviderChoice(only=("chutes",)), ProviderChoice(order=("chutes",), allow_fallbacks=False)):
            with pytest.raises(Unavailable) as caught:
                find("acme/Owl", choice)
            assert caught.value.code == "catalog_unavailable" and caught.value.retry_after_s
        with pytest.raises(BadRequest, match="None of the providers"):
            find("acme/Owl", ProviderChoice(only=("featherless",)))


def test_names_follow_each_other_and_those_without_a_target_are_left_out(lists: None) -> None:
    route = find("acme/Owl", models=("no/such", OPEN, "acme/Owl", NATIVE))
    assert groups(route) == [{"deepinfra/acme/Owl"}, TWO, {f"fireworks/{NATIVE}"}]
    assert [(missing.name, missing.code) for missing in route.missing] == [("no/such", "model_not_found")]
    assert find("acme/Owl", models=("no/such", OPEN, "acme/Owl", NATIVE)) is route
    assert [target.place for group in route.groups for target in group.targets] == [0, 1, 1, 2]
    with pytest.raises(NotFound, match="first/unknown"):
        find("first/unknown", models=("second/unknown",))
    with pytest.raises(BadRequest, match="matches several"):
        find("acme/Owl", models=("Kestrel",))


def test_a_key_has_no_target_that_it_may_not_use(lists: None) -> None:
    policy = Policy((), (("deepinfra/*", "chutes/*"),), None)
    assert groups(find(OPEN, policy=policy)) == [{f"deepinfra/{OPEN}"}]
    assert groups(find(OPEN, ProviderChoice(), policy=policy)) == [{f"deepinfra/{OPEN}", f"chutes/{OPEN}-TEE"}]
    assert groups(find(NATIVE, models=(OPEN,), policy=policy)) == [{f"deepinfra/{OPEN}"}]
    with pytest.raises(PermissionDenied):
        find(NATIVE, policy=policy)


@pytest.mark.parametrize(
    ("choice", "code"),
    [
        (ProviderChoice(only=()), "no_target"),
        (ProviderChoice(only=("chutes",), ignore=("chutes",)), "no_target"),
        (ProviderChoice(order=("nobody",)), "unknown_provider"),
    ],
)
def test_a_choice_without_a_target_is_refused(lists: None, choice: ProviderChoice, code: str) -> None:
    with pytest.raises(GatewayError) as caught:
        find("acme/Owl", choice)
    assert (caught.value.status, caught.value.code) == (400, code)


def test_only_providers_of_the_endpoint_are_targets(lists: None) -> None:
    route = get_component(Routes).find_route(EMBEDDINGS, InferenceBody(OPEN, ProviderChoice()))
    assert "chutes" not in {target.provider.name for group in route.groups for target in group.targets}
