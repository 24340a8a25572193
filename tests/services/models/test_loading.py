"""How lists are loaded: Featherless' pages, Fireworks' separate price list, and the prices in the other lists."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from decimal import Decimal

import msgspec
import pytest

from app.errors import Unavailable
from app.services import models
from app.services.models import cache, loading
from app.services.models.catalog import get_catalog
from app.services.pricing import get_price
from app.services.providers import featherless
from app.services.providers.chutes import PROVIDER as CHUTES
from app.services.providers.deepinfra import PROVIDER as DEEPINFRA
from app.services.providers.featherless import PROVIDER as FEATHERLESS
from app.services.providers.fireworks import PROVIDER as FIREWORKS
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
    price_row,
    provider_environment,
    root_of,
    seen_at,
)
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, hang
from tests.support.waiting import wait_until

FEATHERLESS_LIST = BASE_PATHS["featherless"] + "/models"
GLM = "accounts/fireworks/models/glm-5p3"


@pytest.fixture
def providers(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedUpstream]:
    """All four providers configured at a scripted upstream."""
    monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("glm-5p3", "kimi-k3", "private")))
    upstream.on_path(PRICES_PATH, list_answer([]))
    with catalogs_of(provider_environment(root_of(upstream))):
        yield upstream


def test_pages_are_read_until_one_is_empty_and_each_model_is_kept_once(providers: ScriptedUpstream) -> None:
    pages = [plain_rows("a/1", "a/2"), plain_rows("a/2", "a/3"), plain_rows("a/3", "a/4")]
    providers.on_path(FEATHERLESS_LIST, pages_answer(pages))

    model_list = models.get_model_list(FEATHERLESS)

    assert [model.id for model in model_list] == ["a/1", "a/2", "a/3", "a/4"]
    asked = [seen.path.partition("?")[2] for seen in seen_at(providers, FEATHERLESS_LIST)]
    assert asked == [f"page={number}&per_page=1000" for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("odd", [b'"\\ud83d"', b"NaN", b"1e400", b'"\xff"', b"[" * 400 + b"]" * 400])
def test_one_odd_value_does_not_refuse_a_list(providers: ScriptedUpstream, odd: bytes) -> None:
    first, second = (json.dumps(row)[:-1].encode() for row in fireworks_rows("glm-5p3", "kimi-k3"))
    rows = first + b', "description": ' + odd + b', "context_length": ' + odd + b"}, " + second + b"}"
    providers.on_path(FIREWORKS_LIST, json_answer(b'{"object": "list", "data": [' + rows + b"]}"))

    model_list = models.get_model_list(FIREWORKS)

    assert [model.id for model in model_list] == [GLM, "accounts/fireworks/models/kimi-k3"]
    assert all(msgspec.json.encode(model) for model in model_list)
    assert msgspec.json.decode(models.render_merged_list(models.PageQuery(None, "", "", False)).body)["data"]


def test_the_log_shows_the_progress_of_a_list_in_pages(
    providers: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    providers.on_path(FEATHERLESS_LIST, pages_answer([plain_rows("a/1", "a/2"), plain_rows("a/3")]))

    models.get_model_list(FEATHERLESS)

    lines = [line for line in capfd.readouterr().err.splitlines() if "catalog_page_loaded" in line]
    assert ['"page":1,"models":2' in lines[0], '"page":2,"models":3' in lines[1]] == [True, True]


def test_a_server_without_paging_gets_only_two_requests(providers: ScriptedUpstream) -> None:
    providers.on_path(FEATHERLESS_LIST, list_answer(plain_rows("a/1", "a/2")))

    assert len(models.get_model_list(FEATHERLESS)) == 2
    assert len(seen_at(providers, FEATHERLESS_LIST)) == 2


def test_a_list_without_an_end_is_abandoned(providers: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featherless, "_MAX_PAGES", 5)
    providers.on_path(FEATHERLESS_LIST, pages_answer([plain_rows(f"a/{number}") for number in range(9)]))

    with pytest.raises(Unavailable, match="has no end"):
        models.get_model_list(FEATHERLESS)


def test_a_list_that_takes_too_long_is_abandoned(providers: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_LIST_TIMEOUT_S", -1.0)
    providers.on_path(FEATHERLESS_LIST, pages_answer([plain_rows("a/1"), plain_rows("a/2")]))

    with pytest.raises(Unavailable, match="was not complete within"):
        models.get_model_list(FEATHERLESS)


def test_a_page_that_fails_fails_the_whole_list(providers: ScriptedUpstream) -> None:
    providers.enqueue(list_answer(plain_rows("a/1")), json_answer({"error": {"message": "oops"}}, 500))

    with pytest.raises(Unavailable):
        models.get_model_list(FEATHERLESS)
    assert models.peek_model_list(FEATHERLESS) is None


def test_an_unknown_name_never_causes_a_new_fetch_of_a_paged_list(providers: ScriptedUpstream) -> None:
    providers.on_path(FEATHERLESS_LIST, pages_answer([plain_rows("a/1")]))
    models.get_model_list(FEATHERLESS)
    get_catalog(FEATHERLESS)._last_try_s -= 3600

    assert not models.fetch_for_unknown([FEATHERLESS])
    assert len(seen_at(providers, FEATHERLESS_LIST)) == 2


def test_fireworks_prices_come_from_its_price_list_on_the_same_host(providers: ScriptedUpstream) -> None:
    providers.on_path(PRICES_PATH, list_answer([price_row(GLM, "1.4", "0.26", "4.4")]))

    model = models.get_model_list(FIREWORKS).get(GLM)

    assert model is not None
    assert (model.pricing.prompt, model.pricing.completion, model.pricing.input_cache_read) == (
        "0.0000014",
        "0.0000044",
        "0.00000026",
    )
    assert model.pricing_source == "fireworks"
    assert model.pricing_date is not None
    assert seen_at(providers, PRICES_PATH)[0].headers["authorization"] == "Bearer fw_test"


@pytest.mark.parametrize(
    "answer", [json_answer({}, 500), json_answer([]), list_answer([]), json_answer(b"<html>"), [hang()]]
)
def test_the_models_are_listed_even_without_the_price_list(
    providers: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, answer: Script
) -> None:
    monkeypatch.setattr(loading, "_PRICES_TIMEOUT_COLD_S", 0.3)
    providers.on_path(PRICES_PATH, answer)

    model_list = models.get_model_list(FIREWORKS)

    glm, private = model_list.get(GLM), model_list.get("accounts/fireworks/models/private")
    assert glm is not None and str(glm.pricing_source).startswith("genai-prices ")
    assert private is not None and (private.pricing.prompt, private.pricing_source) == (None, None)


@pytest.mark.parametrize("answer", [json_answer({}, 500), list_answer([])])
def test_known_prices_are_kept_if_the_price_list_fails(providers: ScriptedUpstream, answer: Script) -> None:
    providers.on_path(PRICES_PATH, list_answer([price_row(GLM, "7", "0.5", "9")]))
    first = models.get_model_list(FIREWORKS)
    providers.on_path(PRICES_PATH, answer)
    get_catalog(FIREWORKS).cache["timestamp"] -= 1801

    wait_until(lambda: models.get_model_list(FIREWORKS) is not first, what="the refresh")

    price = get_price(FIREWORKS.billing, GLM)
    assert price is not None
    assert price.prompt == Decimal("0.000007")


def test_a_rejected_list_changes_no_price(providers: ScriptedUpstream) -> None:
    rows = [{"id": f"a/{number}", "pricing": {"prompt": 0.5, "completion": 1.0}} for number in range(10)]
    providers.on_path(BASE_PATHS["chutes"] + "/models", list_answer(rows))
    models.get_model_list(CHUTES)
    providers.on_path(
        BASE_PATHS["chutes"] + "/models", list_answer([{**rows[0], "pricing": {"prompt": 5, "completion": 9}}])
    )
    get_catalog(CHUTES).cache["timestamp"] -= 1801

    models.refresh_if_due()
    wait_until(lambda: get_catalog(CHUTES).last_error, what="the refresh to be rejected")

    price = get_price(CHUTES.billing, "a/0")
    assert price is not None
    assert price.prompt == Decimal("0.0000005")


def test_each_providers_unit_of_prices_is_converted(providers: ScriptedUpstream) -> None:
    """One price in three notations.

    Chutes and DeepInfra state 0.5 USD per million tokens, as the numbers `pricing.prompt` and `input_tokens`.
    Featherless states the string "0.0000005" per token, under the same key as Chutes.
    """
    chutes = [{"id": "a/m", "pricing": {"prompt": 0.5, "completion": 2}}]
    deepinfra = [{"id": "a/m", "metadata": {"pricing": {"input_tokens": 0.5, "output_tokens": 2}, "tags": ["chat"]}}]
    featherless = [{"id": "a/m", "pricing": {"prompt": "0.0000005", "completion": "0.000002", "input": 0.5}}]
    providers.on_path(BASE_PATHS["chutes"] + "/models", list_answer(chutes))
    providers.on_path(BASE_PATHS["deepinfra"] + "/models", list_answer(deepinfra))
    providers.on_path(FEATHERLESS_LIST, pages_answer([featherless]))

    for provider in (CHUTES, DEEPINFRA, FEATHERLESS):
        model = models.get_model_list(provider).get("a/m")
        price = get_price(provider.billing, "a/m")
        assert model is not None and price is not None
        assert (model.pricing.prompt, model.pricing.completion) == ("0.0000005", "0.000002")
        assert (price.prompt, price.completion, price.source) == (Decimal("5E-7"), Decimal("2E-6"), provider.name)


def test_twenty_two_thousand_models_share_their_equal_parts(providers: ScriptedUpstream) -> None:
    rows = plain_rows(*(f"owner-{number % 90}/model-{number}" for number in range(22_000)))
    pages = [list(itertools.islice(rows, start, start + 1000)) for start in range(0, 22_000, 1000)]
    providers.on_path(FEATHERLESS_LIST, pages_answer(pages))

    model_list = get_catalog(FEATHERLESS).fetch()

    assert len(model_list) == 22_000
    assert len({id(model.architecture) for model in model_list}) == 1
    assert len({id(model.supported_parameters) for model in model_list}) == 1
    assert len({id(model.provider_slug) for model in model_list}) == 90
