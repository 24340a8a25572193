"""The providers' records: found by their settings, and complete."""

from __future__ import annotations

import pytest

from app.config import setting_names
from app.errors import BadRequest, ConfigurationMissing
from app.services.providers import (
    PROVIDERS,
    Provider,
    get_client,
    get_configured_providers,
    get_provider,
    is_configured,
)
from tests.support.catalogs import catalogs_of

EACH = pytest.mark.parametrize("provider", PROVIDERS.values(), ids=list(PROVIDERS))


def test_the_providers_are_in_the_order_of_their_settings() -> None:
    assert list(PROVIDERS) == ["fireworks", "featherless", "deepinfra", "chutes"]
    assert all(name == provider.name == provider.billing.name for name, provider in PROVIDERS.items())


@EACH
def test_a_provider_names_its_setting_and_serves_chat(provider: Provider) -> None:
    assert provider.key_setting in setting_names()
    assert provider.serves["chat"].path == "/chat/completions"
    assert {"x-request-id", "cf-ray"} <= set(provider.request_id_headers)


@EACH
def test_only_a_provider_with_a_key_is_configured_and_has_a_client(provider: Provider) -> None:
    with catalogs_of({provider.key_setting: "key"}):
        assert get_configured_providers() == [provider]
        assert get_client(provider) is get_client(provider)
        assert get_client(provider).title == provider.title
        for other in PROVIDERS.values():
            assert is_configured(other) == (other is provider)
            if other is not provider:
                with pytest.raises(ConfigurationMissing, match=f"^{other.title} API key not configured$"):
                    get_client(other)


def test_new_settings_have_a_new_client() -> None:
    fireworks = get_provider("fireworks")
    with catalogs_of({"FIREWORKS_API_KEY": "one"}):
        first = get_client(fireworks)
    with catalogs_of({"FIREWORKS_API_KEY": "two", "FIREWORKS_BASE_URL": "http://127.0.0.1:9/v1"}):
        assert get_client(fireworks) is not first
        assert get_client(fireworks).base_url == "http://127.0.0.1:9/v1"


def test_without_any_key_the_first_provider_is_named() -> None:
    with catalogs_of({}), pytest.raises(ConfigurationMissing, match="^Fireworks API key not configured$") as caught:
        get_configured_providers()
    assert caught.value.param == "FIREWORKS_API_KEY"


def test_the_error_for_an_unknown_provider_lists_the_known_ones() -> None:
    with pytest.raises(BadRequest, match="Unknown gateway 'openai'. Use one of: fireworks, featherless,") as caught:
        get_provider("openai", param="gateway")
    assert (caught.value.param, caught.value.code) == ("gateway", "unknown_provider")
