"""The error for a wrong entry in an operator's price file names the entry and says what it should be."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from app.config import SettingsError
from app.services.pricing import load_operator_prices
from app.services.pricing.price_file import FilePrice, read_price_file
from tests.support.catalogs import catalogs_of

HEAD = 'unit = "usd_per_million_tokens"\n'
GLM = '[fireworks."accounts/fireworks/models/glm-5p3"]\n'


def test_entries_are_read_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(HEAD + "date = 2026-11-01\n" + GLM + "prompt = 0.1\ncompletion = 3\n")

    assert read_price_file(path, ["fireworks"]) == [
        FilePrice(
            provider="fireworks",
            model_id="accounts/fireworks/models/glm-5p3",
            tier=None,
            prompt=Decimal("0.1"),
            completion=Decimal(3),
            input_cache_read=None,
            date=datetime.date(2026, 11, 1),
        )
    ]


def test_amounts_are_exact_decimals_and_not_rounded_to_a_float(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(HEAD + GLM + "prompt = 0.12345678901234567890123\ncompletion = 1.10\n")

    (entry,) = read_price_file(path, ["fireworks"])

    assert (str(entry.prompt), str(entry.completion)) == ("0.12345678901234567890123", "1.10")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", 'it must begin with unit = "usd_per_million_tokens"; unit is None'),
        ('unit = "usd_per_token"\n', "unit is 'usd_per_token'"),
        ("unit = usd", "cannot be read"),
        (HEAD + 'date = "yesterday"\n', "write a date, as in date = 2026-11-01"),
        (HEAD + "[openai.x]\nprompt = 1\ncompletion = 1\n", "unknown provider 'openai'; use fireworks"),
        (HEAD + "fireworks = 3\n", "fireworks must contain tables"),
        (HEAD + "[fireworks]\nglm = 3\n", "fireworks.'glm' must be a table"),
        (HEAD + GLM + "prompt = 1\n", "glm-5p3': completion is missing"),
        (HEAD + GLM + "prompt = 1\ncompletion = 1\ncached = 1\n", "glm-5p3': unknown field 'cached'"),
        (HEAD + GLM + 'prompt = "1"\ncompletion = 1\n', "glm-5p3': prompt is '1'; write a number"),
        (HEAD + GLM + "prompt = true\ncompletion = 1\n", "prompt is True; write a number"),
        (
            HEAD + GLM + "prompt = -1\ncompletion = 1\n",
            "prompt is -1; that is not a plausible price in USD per million",
        ),
        (HEAD + GLM + "prompt = nan\ncompletion = 1\n", "prompt is NaN; that is not a plausible price"),
        (HEAD + GLM + "prompt = inf\ncompletion = 1\n", "prompt is Infinity; that is not a plausible price"),
        (
            HEAD + GLM + "prompt = 0.0000014\ncompletion = 1\n",
            "prompt is 0.0000014; that is not a plausible price in USD per million",
        ),
        (
            HEAD + GLM + "prompt = 1400000\ncompletion = 1\n",
            "prompt is 1400000; that is not a plausible price in USD per million",
        ),
        (HEAD + "[fireworks.glm-5.3]\nprompt = 1\ncompletion = 1\n", "Is the model id in quotes?"),
    ],
)
def test_a_wrong_file_stops_the_boot_and_the_entry_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(content)

    with catalogs_of({"PRICE_FILE": str(path)}), pytest.raises(SettingsError) as caught:
        load_operator_prices()

    assert str(caught.value).startswith(f"PRICE_FILE {path}")
    assert complaint in str(caught.value)


def test_a_missing_file_stops_the_boot(tmp_path: Path) -> None:
    environment = {"PRICE_FILE": str(tmp_path / "none.toml")}

    with catalogs_of(environment), pytest.raises(SettingsError, match=r"none\.toml cannot be read"):
        load_operator_prices()
