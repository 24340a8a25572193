"""The resolution of names of targets and of aliases, with the lists of two providers."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from app.runtime import get_component
from app.services.aliases import Alias, Aliases, AliasTarget, find_alias, find_candidates, make_listed_aliases
from app.services.models import OwnModels, PageQuery, get_model_list, render_merged_list
from app.services.providers import PROVIDERS
from tests.support.catalogs import catalogs_of, fireworks_rows, list_answer, plain_rows, provider_environment, root_of
from tests.support.scripted_upstream import ScriptedUpstream

FIREWORKS = fireworks_rows("kimi-k3")
DEEPINFRA = plain_rows("anthropic/claude-4", "Org/Name")


@pytest.fixture(scope="module", autouse=True)
def _lists() -> Iterator[None]:
    """The lists of Fireworks and DeepInfra, loaded; the other providers have no key."""
    with ScriptedUpstream() as upstream:
        upstream.on_path("/inference/v1/models", list_answer(FIREWORKS))
        upstream.on_path("/deepinfra/v1/openai/models", list_answer(DEEPINFRA))
        with catalogs_of(provider_environment(root_of(upstream), ("fireworks", "deepinfra"))):
            for name in ("fireworks", "deepinfra"):
                get_model_list(PROVIDERS[name])
            yield


CANDIDATES = {
    "fireworks/kimi-k3": ["fireworks accounts/fireworks/models/kimi-k3"],
    "Fireworks/KIMI-k3": ["fireworks accounts/fireworks/models/kimi-k3"],
    "fireworks/accounts/fireworks/models/kimi-k3": ["fireworks accounts/fireworks/models/kimi-k3"],
    "accounts/fireworks/models/kimi-k3": ["fireworks accounts/fireworks/models/kimi-k3"],
    # Models that a list need not have: another account's, and one under an id of arbitrary form.
    "accounts/fireworks/new": ["fireworks accounts/fireworks/models/new"],
    "accounts/me/models/own": ["fireworks accounts/me/models/own"],
    "fireworks/owner/new": ["fireworks owner/new"],
    "deepinfra/org/name": ["deepinfra Org/Name"],
    "deepinfra/Org/New": [],
    "chutes/Org/Name": [],
    "Org/Name": [],
}


def test_a_target_means_a_model_of_the_provider_that_it_names_and_of_no_other() -> None:
    for name, expected in CANDIDATES.items():
        found = find_candidates([AliasTarget(name)])
        assert (name, [f"{each.provider.name} {each.model_id}" for each in found]) == (name, expected)
    both = [AliasTarget("deepinfra/Org/Name"), AliasTarget("fireworks/kimi-k3")]
    assert [each.model for each in find_candidates(both)] == [
        get_model_list(PROVIDERS["deepinfra"])[1],
        get_model_list(PROVIDERS["fireworks"])[0],
    ]
    (allowed,) = find_candidates(both, lambda provider, model_id: model_id.endswith("kimi-k3"))
    assert allowed.provider.name == "fireworks"


def test_an_alias_has_a_second_name_unless_a_provider_lists_it() -> None:
    aliases = get_component(Aliases)
    target = (AliasTarget("fireworks/kimi-k3"),)
    aliases._take((Alias("claude-4", target), Alias("claude-5", target)), "1")
    found = {name: find_alias(name) for name in ("CLAUDE-4", "anthropic/claude-5", "anthropic/claude-4", "kimi-k3")}
    assert [None if alias is None else alias.name for alias in found.values()] == ["claude-4", "claude-5", None, None]
    own = OwnModels("1", aliases.names, lambda: make_listed_aliases(None))
    listed = msgspec.json.decode(render_merged_list(PageQuery(None, "", "", True), None, own).body)["data"]
    names = [entry["id"] for entry in listed]
    assert names[:3] == ["claude-4", "claude-5", "anthropic/claude-5"] and len(set(names)) == len(names)
    assert names.count("anthropic/claude-4") == 1, "that of the list"
