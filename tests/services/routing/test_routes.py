"""The provider that serves a model: with one provider and with several, with lists and without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.config import load_settings
from app.errors import BadRequest, ConfigurationMissing, NotFound, Unavailable
from app.runtime import get_component, use_settings
from app.services import models
from app.services.endpoints import CHAT, InferenceBody
from app.services.models import cache
from app.services.models.catalog import get_catalog
from app.services.providers.fireworks import PROVIDER as FIREWORKS
from app.services.routing import Routes, Target, routes
from tests.support.answers import json_answer
from tests.support.catalogs import (
    BASE_PATHS,
    FIREWORKS_LIST,
    PRICES_PATH,
    catalogs_of,
    fireworks_rows,
    list_answer,
    pages_answer,
    plain_rows,
    provider_environment,
    root_of,
    seen_at,
)
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, hang
from tests.support.waiting import wait_until

DEEPSEEK = "accounts/fireworks/models/deepseek-v3p1"
DOWN = json_answer({"error": {"message": "oops"}}, 500)


@pytest.fixture
def four(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedUpstream]:
    """All four providers configured, each with a few models; two of them share one."""
    monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
    lists: dict[str, Script] = {
        "fireworks": list_answer(fireworks_rows("deepseek-v3p1", "glm-5p3")),
        "featherless": pages_answer([plain_rows("acme/Quokka-3-8B", "zeta/Lynx")]),
        "deepinfra": list_answer(plain_rows("deepseek-ai/DeepSeek-V3.1", "acme/Quokka-3-8B", "zeta/Heron")),
        "chutes": list_answer(plain_rows("zeta/Heron-TEE", "Kestrel-Nano")),
    }
    for name, script in lists.items():
        upstream.on_path(BASE_PATHS[name] + "/models", script)
    upstream.on_path(PRICES_PATH, list_answer([]))
    with catalogs_of(provider_environment(root_of(upstream))):
        yield upstream


@pytest.fixture
def fireworks(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedUpstream]:
    """Only Fireworks configured, with two models."""
    monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1", "glm-5p3")))
    upstream.on_path(PRICES_PATH, list_answer([]))
    with catalogs_of(provider_environment(root_of(upstream), ["fireworks"])):
        yield upstream


def resolve_model(model: str, provider: str | None = None) -> Target:
    route = get_component(Routes).find_route(CHAT, InferenceBody(model=model, provider=provider))
    assert route.is_fixed
    return route.target


def resolved(model: str, provider: str | None = None) -> tuple[str, str]:
    """Returns the provider's name and the id, as a pair."""
    found = resolve_model(model, provider)
    return found.provider.name, found.model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (DEEPSEEK, ("fireworks", DEEPSEEK)),
        ("accounts/fireworks/deepseek-v3p1", ("fireworks", DEEPSEEK)),
        ("deepseek-v3p1", ("fireworks", DEEPSEEK)),
        ("DeepSeek-V3.1", ("fireworks", DEEPSEEK)),
        ("Fireworks/deepseek-v3p1", ("fireworks", DEEPSEEK)),
        ("zai-org/GLM-5.3", ("fireworks", "accounts/fireworks/models/glm-5p3")),
        # An exact id takes precedence over a name, so DeepInfra gets this one although Fireworks has the model too.
        ("deepseek-ai/DeepSeek-V3.1", ("deepinfra", "deepseek-ai/DeepSeek-V3.1")),
        ("zeta/Lynx", ("featherless", "zeta/Lynx")),
        ("ZETA/lynx", ("featherless", "zeta/Lynx")),
        ("Kestrel-Nano", ("chutes", "Kestrel-Nano")),
        ("featherless/acme/Quokka-3-8B", ("featherless", "acme/Quokka-3-8B")),
        ("deepinfra/acme/quokka-3-8b", ("deepinfra", "acme/Quokka-3-8B")),
    ],
)
def test_without_a_provider_the_lists_decide(four: ScriptedUpstream, model: str, expected: tuple[str, str]) -> None:
    assert resolved(model) == expected


@pytest.mark.parametrize("name", ["accounts/fireworks/models/DeepSeek-V3.1", "accounts/fireworks/DEEPSEEK-V3P1"])
def test_a_loaded_list_corrects_the_case_and_the_dots_of_an_account_id(fireworks: ScriptedUpstream, name: str) -> None:
    models.get_model_list(FIREWORKS)

    assert resolved(name) == ("fireworks", DEEPSEEK)


@pytest.mark.parametrize(
    ("model", "provider", "model_id"),
    [
        ("deepseek-ai/DeepSeek-V3.1", "fireworks", DEEPSEEK),
        ("deepseek-v3p1", "fireworks", DEEPSEEK),
        ("acme/Quokka-3-8B", "featherless", "acme/Quokka-3-8B"),
        ("acme/Quokka-3-8B", "deepinfra", "acme/Quokka-3-8B"),
        ("acme/quokka-3-8b", "deepinfra", "acme/Quokka-3-8B"),
        # Forms that a provider accepts but does not list.
        ("zeta/Heron:f0e1", "deepinfra", "zeta/Heron:f0e1"),
        ("deploy_id:f0e1", "deepinfra", "deploy_id:f0e1"),
        ("zeta/Heron-TEE:THINKING", "chutes", "zeta/Heron-TEE:THINKING"),
        ("zeta/Heron-TEE,Kestrel-Nano:latency", "chutes", "zeta/Heron-TEE,Kestrel-Nano:latency"),
        ("default", "chutes", "default"),
    ],
)
def test_an_explicit_provider_decides(four: ScriptedUpstream, model: str, provider: str, model_id: str) -> None:
    assert resolved(model, provider) == (provider, model_id)


@pytest.mark.parametrize("provider", [None, "fireworks"])
@pytest.mark.parametrize(
    "model",
    [
        "accounts/fireworks/models/not-listed-yet",
        "accounts/fireworks/routers/glm-5p3-fast",
        "accounts/acme-example/models/Support-Bot.v2",
        "accounts/acme-example/deployments/f0e1d2",
        "accounts/fireworks/models/glm-5p3#accounts/acme-example/deployments/f0e1d2",
        "acme-example/glm-5p3#acme-example/f0e1d2",
        "accounts/acme-example/models/support-bot@snapshot-7",
        "accounts/fireworks/models/GLM-5.3@7",
        "accounts/fireworks/glm-5p3@7",
        "routers/glm-latest",
    ],
)
def test_names_in_a_form_of_fireworks_are_sent_there_unchanged(
    four: ScriptedUpstream, model: str, provider: str | None
) -> None:
    assert resolved(model, provider) == ("fireworks", model)


@pytest.mark.parametrize("model", ["deepseek-v3", "deepseek-v3p2", "somebody/DeepSeek-V3.1", "Quokka-3-8B", "lynx"])
def test_a_different_model_is_never_guessed(four: ScriptedUpstream, model: str) -> None:
    with pytest.raises(NotFound) as caught:
        resolve_model(model)

    assert (caught.value.status, caught.value.param, caught.value.code) == (404, "model", "model_not_found")


@pytest.mark.parametrize("provider", [None, "fireworks"])
def test_the_error_for_an_unknown_model_names_the_nearest(four: ScriptedUpstream, provider: str | None) -> None:
    with pytest.raises(NotFound, match="The nearest names are: accounts/fireworks/models/glm-5p3[,.]"):
        resolve_model("glm-5p4", provider)


def test_an_unknown_provider_is_refused_and_the_known_ones_are_listed(four: ScriptedUpstream) -> None:
    with pytest.raises(BadRequest, match="fireworks, featherless, deepinfra, chutes"):
        resolve_model("glm-5p3", "openai")


@pytest.mark.parametrize(("model", "provider"), [("zeta/Lynx", "featherless"), ("anything", "chutes")])
def test_an_unconfigured_provider_is_named_with_its_setting(
    fireworks: ScriptedUpstream, model: str, provider: str
) -> None:
    with pytest.raises(ConfigurationMissing) as caught:
        resolve_model(model, provider)

    assert caught.value.param == f"{provider.upper()}_API_KEY"


def test_an_account_id_needs_fireworks_to_be_configured(upstream: ScriptedUpstream) -> None:
    environment = provider_environment(root_of(upstream), ["chutes"])

    with catalogs_of(environment), pytest.raises(ConfigurationMissing, match="^Fireworks API key not configured$"):
        resolve_model(DEEPSEEK)


def test_without_any_provider_the_error_is_the_documented_one() -> None:
    with catalogs_of({}), pytest.raises(ConfigurationMissing, match="^Fireworks API key not configured$"):
        resolve_model("glm-5p3")


@pytest.mark.parametrize("provider", [None, "fireworks"])
def test_an_account_id_does_not_wait_for_a_hanging_catalog(
    fireworks: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, provider: str | None
) -> None:
    fireworks.on_path(FIREWORKS_LIST, [hang()])
    monkeypatch.setattr(cache, "COLD_WAIT_S", 3600.0)

    assert resolved(DEEPSEEK, provider) == ("fireworks", DEEPSEEK)
    assert resolved("accounts/fireworks/deepseek-v3p1", provider) == ("fireworks", DEEPSEEK)
    assert resolved("acme-example/glm-5p3#acme-example/f0e1d2", provider)[0] == "fireworks"


def test_without_a_catalog_a_name_is_refused_and_an_explicit_provider_gets_it_unchanged(
    fireworks: ScriptedUpstream,
) -> None:
    fireworks.on_path(FIREWORKS_LIST, DOWN)

    with pytest.raises(Unavailable, match="could not be loaded"):
        resolve_model("deepseek-v3p1")
    assert resolved("deepseek-v3p1", "fireworks") == ("fireworks", "deepseek-v3p1")


def test_an_unknown_model_is_unavailable_while_a_list_is_missing(four: ScriptedUpstream) -> None:
    four.on_path(BASE_PATHS["chutes"] + "/models", DOWN)

    assert resolved("glm-5p3") == ("fireworks", "accounts/fireworks/models/glm-5p3")
    with pytest.raises(Unavailable, match="The model list of Chutes could not be loaded"):
        resolve_model("Kestrel-Nano")


def test_a_name_that_was_sent_unchanged_is_resolved_once_the_list_is_loaded(fireworks: ScriptedUpstream) -> None:
    fireworks.on_path(FIREWORKS_LIST, DOWN)
    assert resolved("deepseek-v3p1", "fireworks") == ("fireworks", "deepseek-v3p1")

    fireworks.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1")))
    get_catalog(FIREWORKS).fetch()

    assert resolved("deepseek-v3p1", "fireworks") == ("fireworks", DEEPSEEK)


def test_a_model_that_left_the_list_is_no_longer_resolved(fireworks: ScriptedUpstream) -> None:
    assert resolved("glm-5p3") == ("fireworks", "accounts/fireworks/models/glm-5p3")
    fireworks.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1")))
    get_catalog(FIREWORKS).fetch()

    with pytest.raises(NotFound):
        resolve_model("glm-5p3")


def test_chat_requests_alone_refresh_the_list(fireworks: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_REFRESH_CHECK_S", 0.0)
    models.get_model_list(FIREWORKS)
    assert resolved("glm-5p3")[0] == "fireworks"
    models._fireworks_models_cache["timestamp"] -= 1801
    get_component(Routes)._next_check_s = 0.0

    assert resolved("glm-5p3")[0] == "fireworks"

    wait_until(lambda: len(seen_at(fireworks, FIREWORKS_LIST)) == 2, what="the refresh")


def test_the_number_of_remembered_names_is_bounded(
    fireworks: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_MAX_REMEMBERED", 10)

    for number in range(100):
        resolve_model(f"accounts/acme-example/models/m-{number}")

    assert len(get_component(Routes)._routes) <= 10


def test_new_settings_discard_the_resolved_names(fireworks: ScriptedUpstream) -> None:
    assert resolved(DEEPSEEK) == ("fireworks", DEEPSEEK)

    use_settings(load_settings(provider_environment(root_of(fireworks), ["chutes"])))

    with pytest.raises(ConfigurationMissing):
        resolve_model(DEEPSEEK)
