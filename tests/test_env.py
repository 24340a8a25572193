"""The committed `.env` documents every setting, with the defaults of the code and without a secret."""

from __future__ import annotations

from dotenv import dotenv_values

from app.config import load_settings, setting_names
from tests.support.tree import ROOT

DOCUMENTED = dotenv_values(ROOT / ".env")


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert sorted(DOCUMENTED) == sorted(setting_names())


def test_the_documented_defaults_are_those_of_the_code() -> None:
    assert load_settings({name: value or "" for name, value in DOCUMENTED.items()}) == load_settings({})


def test_it_holds_no_secret() -> None:
    secret = [name for name in DOCUMENTED if name.endswith("_KEY") or name == "DATABASE_URL"]
    assert len(secret) >= 6
    assert {name: DOCUMENTED[name] for name in secret if DOCUMENTED[name]} == {}
