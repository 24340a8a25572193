"""Fireworks' own forms of a model's name, and its timing headers."""

from __future__ import annotations

import pytest

from app.services.providers import PROVIDERS
from app.services.providers.fireworks import PROVIDER as FIREWORKS

NAMING = FIREWORKS.naming
DEEPSEEK = "accounts/fireworks/models/deepseek-v3p1"


@pytest.mark.parametrize(
    ("name", "claims", "claims_if_configured"),
    [
        (DEEPSEEK, True, True),
        ("accounts/acme-example/deployments/f0e1d2", True, True),
        ("routers/glm-latest", False, True),
        ("acme-example/glm-5p3#acme-example/f0e1d2", False, True),
        ("glm-5p3@7", False, True),
        ("glm-5p3", False, False),
        ("deepseek-ai/DeepSeek-V3.1", False, False),
        ("zeta/Heron:f0e1", False, False),
    ],
)
def test_only_its_own_forms_are_claimed(name: str, claims: bool, claims_if_configured: bool) -> None:
    assert (NAMING.claims(name), NAMING.claims_if_configured(name)) == (claims, claims_if_configured)
    others = [provider.naming for provider in PROVIDERS.values() if provider is not FIREWORKS]
    assert not any(naming.claims(name) or naming.claims_if_configured(name) for naming in others)


@pytest.mark.parametrize(
    ("name", "found", "canonical"),
    [
        ("accounts/fireworks/models/DeepSeek-V3.1", [DEEPSEEK], DEEPSEEK),
        ("accounts/fireworks/deepseek-v3p1", [], DEEPSEEK),
        ("accounts/fireworks/models/new", [], "accounts/fireworks/models/new"),
        ("accounts/fireworks/models/twice", ["a", "b"], "accounts/fireworks/models/twice"),
        ("accounts/fireworks/", [], "accounts/fireworks/"),
    ],
)
def test_an_account_id_is_written_as_in_the_list(name: str, found: list[str], canonical: str) -> None:
    assert NAMING.get_canonical_id(name, lambda _: found) == canonical


@pytest.mark.parametrize("name", ["accounts/acme-example/models/Bot", f"{DEEPSEEK}@7", f"{DEEPSEEK}#a/b"])
def test_a_form_that_its_list_never_contains_is_not_looked_up(name: str) -> None:
    assert NAMING.get_canonical_id(name, lambda _: ["another"]) == name


@pytest.mark.parametrize(
    ("total", "first_token", "generation_s"),
    [
        ("2.5", "0.5", 2.0),
        ("0.5", "0.5", None),
        ("0.5", "2", None),
        ("x", "1", None),
        (None, "1", None),
        ("1", None, None),
    ],
)
def test_the_generation_time_is_read_from_its_timing_headers(
    total: str | None, first_token: str | None, generation_s: float | None
) -> None:
    headers = {
        name: value
        for name, value in {
            "fireworks-server-processing-time": total,
            "fireworks-server-time-to-first-token": first_token,
        }.items()
        if value is not None
    }
    assert FIREWORKS.get_generation_s(headers) == generation_s
    assert PROVIDERS["chutes"].get_generation_s(headers) is None
