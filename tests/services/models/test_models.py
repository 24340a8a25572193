"""The catalog's documented functions, in a separate process and over a real socket."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.config import ROOT
from app.errors import ConfigurationMissing, UpstreamAuthenticationFailed
from app.services import models
from app.services.models import (
    _fireworks_models_cache,
    fetch_models_from_fireworks,
    fetch_specific_model_from_fireworks,
    normalize_fireworks_model,
)
from app.services.models.catalog import get_catalog
from app.services.providers.fireworks import PROVIDER as FIREWORKS
from tests.support.answers import json_answer
from tests.support.catalogs import (
    FIREWORKS_LIST,
    catalogs_of,
    fireworks_rows,
    list_answer,
    provider_environment,
    root_of,
    seen_at,
)
from tests.support.gateway import clean_environment
from tests.support.scripted_upstream import ScriptedUpstream

DEEPSEEK = "accounts/fireworks/models/deepseek-v3p1"


@pytest.fixture
def fireworks(upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    """An upstream that lists two Fireworks models, and Fireworks configured."""
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1", "glm-5p3")))
    with catalogs_of(provider_environment(root_of(upstream), ["fireworks"])):
        yield upstream


def test_the_cache_is_the_documented_dict_and_a_fetch_fills_it(fireworks: ScriptedUpstream) -> None:
    assert _fireworks_models_cache == {"data": None, "timestamp": None, "ttl": 1800}

    fetch_models_from_fireworks()

    assert [model.id for model in _fireworks_models_cache["data"]] == [DEEPSEEK, "accounts/fireworks/models/glm-5p3"]
    assert _fireworks_models_cache["timestamp"] is not None
    assert _fireworks_models_cache["ttl"] == 1800


def test_a_fetch_returns_entries_in_the_standard_form_and_sends_the_key(fireworks: ScriptedUpstream) -> None:
    entries = fetch_models_from_fireworks()

    assert [entry["id"] for entry in entries] == [DEEPSEEK, "accounts/fireworks/models/glm-5p3"]
    expected = normalize_fireworks_model(fireworks_rows("deepseek-v3p1")[0])
    assert {**entries[0], "pricing": None} == {**expected, "pricing": None}
    assert seen_at(fireworks, FIREWORKS_LIST)[0].headers["authorization"] == "Bearer fw_test"


def test_each_fetch_sends_a_request_to_the_provider(fireworks: ScriptedUpstream) -> None:
    fetch_models_from_fireworks()
    fireworks.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("kimi-k3")))

    assert [entry["name"] for entry in fetch_models_from_fireworks()] == ["kimi-k3"]
    assert [model.name for model in models.get_model_list(FIREWORKS)] == ["kimi-k3"]


@pytest.mark.parametrize(
    "name",
    [
        DEEPSEEK,
        "accounts/fireworks/deepseek-v3p1",
        "fireworks/deepseek-v3p1",
        "deepseek-v3p1",
        "DeepSeek-V3.1",
        "deepseek-ai/DeepSeek-V3.1",
    ],
)
def test_a_specific_model_is_found_under_every_name_people_write(fireworks: ScriptedUpstream, name: str) -> None:
    entry = fetch_specific_model_from_fireworks(name)

    assert entry is not None
    assert entry["id"] == DEEPSEEK


def test_a_specific_model_can_be_named_in_two_parts(fireworks: ScriptedUpstream) -> None:
    entry = fetch_specific_model_from_fireworks("accounts/fireworks/models", "glm-5p3")

    assert entry is not None
    assert entry["id"] == "accounts/fireworks/models/glm-5p3"


def test_within_the_ttl_nothing_is_sent_upstream(fireworks: ScriptedUpstream) -> None:
    for _ in range(50):
        fetch_specific_model_from_fireworks("glm-5p3")
        models.get_model_list(FIREWORKS)
        models.refresh_if_due()

    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 1


def test_an_unknown_name_causes_at_most_one_fetch_a_minute(fireworks: ScriptedUpstream) -> None:
    for _ in range(20):
        assert fetch_specific_model_from_fireworks("llama-9") is None
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 1, "the list had just been fetched"

    get_catalog(FIREWORKS)._last_try_s -= 61
    for _ in range(20):
        assert fetch_specific_model_from_fireworks("llama-9") is None
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 2


def test_a_new_model_is_found_before_the_ttl_is_over(fireworks: ScriptedUpstream) -> None:
    assert fetch_specific_model_from_fireworks("llama-9") is None
    fireworks.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1", "glm-5p3", "llama-9")))
    get_catalog(FIREWORKS)._last_try_s -= 61

    entry = fetch_specific_model_from_fireworks("llama-9")

    assert entry is not None
    assert entry["id"] == "accounts/fireworks/models/llama-9"


def test_without_a_key_every_function_raises_the_documented_error() -> None:
    with catalogs_of({}):
        for call in (fetch_models_from_fireworks, lambda: fetch_specific_model_from_fireworks("glm-5p3")):
            with pytest.raises(ConfigurationMissing, match="^Fireworks API key not configured$"):
                call()


def test_a_fetch_raises_if_the_key_is_refused(fireworks: ScriptedUpstream) -> None:
    fireworks.on_path(FIREWORKS_LIST, json_answer({"error": {"message": "bad key"}}, 401))

    with pytest.raises(UpstreamAuthenticationFailed):
        fetch_models_from_fireworks()


def test_a_plain_python_program_can_use_the_catalog_without_flask(fireworks: ScriptedUpstream) -> None:
    program = (
        "import sys; from app.services.models import fetch_models_from_fireworks as fetch; "
        "print(len(fetch()), 'flask' in sys.modules)"
    )
    environment = clean_environment() | provider_environment(root_of(fireworks), ["fireworks"])

    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )

    assert run.stdout.split() == ["2", "False"], run.stderr
