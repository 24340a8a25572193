"""Lookup of a model, search in a list, and the nearest names to an unknown one."""

from __future__ import annotations

from typing import Any

import pytest

from app.services.models import ModelList
from app.services.models.entry import ModelPacker
from app.services.providers import get_provider
from tests.support.catalogs import fireworks_rows, plain_rows


def make_model_list(provider_name: str, rows: list[dict[str, Any]]) -> ModelList:
    """Returns a list of these raw entries."""
    provider, packer = get_provider(provider_name), ModelPacker()
    return ModelList([packer.pack(provider.normalize(row)) for row in rows], provider.naming)


FIREWORKS = make_model_list(
    "fireworks",
    fireworks_rows("deepseek-v3", "deepseek-v3p1", "qwen2p5-vl-32b", "qwen2p5-32b", "kimi-k3")
    + [{"id": "accounts/acme-example/models/support-bot-v2"}, {"id": "accounts/acme-example/models/kimi-k3"}],
)
FEATHERLESS = make_model_list(
    "featherless",
    plain_rows("acme/Quokka-3-32B-Instruct", "acme/Quokka-3-8B-Instruct", "zeta/Quokka-3-8B", "zeta/Lynx-2.5-Chat"),
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("accounts/fireworks/models/deepseek-v3", ["deepseek-v3"]),
        ("deepseek-v3", ["deepseek-v3"]),
        ("deepseek-v3.1", ["deepseek-v3p1"]),
        ("DEEPSEEK-V3P1", ["deepseek-v3p1"]),
        ("accounts/fireworks/models/DeepSeek-V3.1", ["deepseek-v3p1"]),
        ("deepseek-ai/DeepSeek-V3", ["deepseek-v3"]),
        ("Qwen/Qwen2.5-32B", ["qwen2p5-32b"]),
        ("Qwen/Qwen2.5-VL-32B", ["qwen2p5-vl-32b"]),
        ("support-bot-v2", ["support-bot-v2"]),
        ("acme-example/support-bot-v2", ["support-bot-v2"]),
        ("fireworks/kimi-k3", ["kimi-k3"]),
        ("moonshotai/Kimi-K3", ["kimi-k3"]),
    ],
)
def test_a_name_means_the_model_that_has_it(name: str, found: list[str]) -> None:
    assert [model.name for model in FIREWORKS.find(name)] == found


@pytest.mark.parametrize(
    "name",
    [
        "deepseek",
        "deepseek-v3.2",
        "deepseek-v31",
        "deepseek-v3p1-base",
        "qwen2p5",
        "qwen2.5-vl",
        "somebody/DeepSeek-V3.1",
        "openai/deepseek-v3p1",
        "deepseek-ai/kimi-k3",
        "accounts/fireworks/routers/kimi-k3",
        "",
        "/",
        "accounts/",
    ],
)
def test_a_name_never_means_a_different_model(name: str) -> None:
    assert FIREWORKS.find(name) == ()


def test_a_name_that_two_accounts_use_means_both() -> None:
    assert [model.id for model in FIREWORKS.find("kimi-k3")] == [
        "accounts/fireworks/models/kimi-k3",
        "accounts/acme-example/models/kimi-k3",
    ]


def test_hugging_face_ids_are_found_in_any_case_and_never_by_their_last_part_alone() -> None:
    assert [model.id for model in FEATHERLESS.find("ACME/quokka-3-8b-instruct")] == ["acme/Quokka-3-8B-Instruct"]
    assert FEATHERLESS.find("Quokka-3-8B") == ()
    assert FEATHERLESS.find("zeta/Lynx-2p5-Chat") == ()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("quokka", ["Quokka-3-32B-Instruct", "Quokka-3-8B-Instruct", "Quokka-3-8B"]),
        ("8B quokka", ["Quokka-3-8B-Instruct", "Quokka-3-8B"]),
        ("ZETA/", ["Quokka-3-8B", "Lynx-2.5-Chat"]),
        ("quokka lynx", []),
        ("", ["Quokka-3-32B-Instruct", "Quokka-3-8B-Instruct", "Quokka-3-8B", "Lynx-2.5-Chat"]),
    ],
)
def test_search_finds_the_models_that_have_all_words(words: str, names: list[str]) -> None:
    assert [model.name for model in FEATHERLESS.search(words)] == names


@pytest.mark.parametrize("words", ["deepseek-v3.1", "v3p1", "accounts/fireworks/models/deepseek-v3p1"])
def test_search_finds_fireworks_models_by_either_spelling_of_a_version(words: str) -> None:
    assert [model.name for model in FIREWORKS.search(words)] == ["deepseek-v3p1"]


def test_search_includes_descriptions() -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a/b", "metadata": {"description": "Good at Gardening.", "tags": ["chat"]}},
        {"id": "a/c"},
    ]

    assert [model.id for model in make_model_list("deepinfra", rows).search("gardening")] == ["a/b"]


@pytest.mark.parametrize(
    ("model_list", "name", "nearest"),
    [
        (FIREWORKS, "deepseek-v3p2", "accounts/fireworks/models/deepseek-v3"),
        (FIREWORKS, "somebody/DeepSeek-V3.1", "accounts/fireworks/models/deepseek-v3p1"),
        (FIREWORKS, "depseek-v3p1", "accounts/fireworks/models/deepseek-v3p1"),
        (FIREWORKS, "kimmi", "accounts/fireworks/models/kimi-k3"),
        (FEATHERLESS, "acme/Quoka-3-32B-Instruct", "acme/Quokka-3-32B-Instruct"),
        (FEATHERLESS, "lynx-2.5-chat", "zeta/Lynx-2.5-Chat"),
    ],
)
def test_the_nearest_name_comes_first(model_list: ModelList, name: str, nearest: str) -> None:
    assert nearest in [model_id for _, model_id in model_list.get_nearest(name, 5)][:2]


def test_an_unrelated_name_has_no_nearest_names() -> None:
    assert FEATHERLESS.get_nearest("xxxxxxxx-zzzz-0", 5) == []
    assert FEATHERLESS.get_nearest("", 5) == []
    assert FEATHERLESS.get_nearest("/", 5) == []


def test_the_nearest_names_are_found_among_many_that_share_a_common_word() -> None:
    crowd = plain_rows(*(f"owner/Model-{number}-Instruct" for number in range(5_000)), "zeta/Quokka-Instruct")

    assert make_model_list("featherless", crowd).get_nearest("zeta/Quoka-Instruct", 1)[0][1] == "zeta/Quokka-Instruct"


def test_equal_lists_have_equal_versions_and_any_change_makes_a_new_one() -> None:
    rows = fireworks_rows("a", "b")
    version = make_model_list("fireworks", rows).version

    assert make_model_list("fireworks", fireworks_rows("a", "b")).version == version
    assert make_model_list("fireworks", fireworks_rows("b", "a")).version != version
    assert make_model_list("fireworks", [rows[0], {**rows[1], "context_length": 5}]).version != version
