"""Equivalent models of several providers: a table of real names, and properties of any lists."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.models import ModelList, Served, equivalents, refresh_if_due
from app.services.models.catalog import get_equivalents
from app.services.models.entry import ModelPacker
from app.services.models.equivalents import Equivalents, make_equivalents
from app.services.providers import PROVIDERS, Provider
from tests.support.catalogs import (
    BASE_PATHS,
    FIREWORKS_LIST,
    catalogs_of,
    fireworks_rows,
    list_answer,
    plain_rows,
    provider_environment,
    root_of,
)
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import wait_until

Entry = tuple[str, dict[str, Any]]  # the provider's name, and its raw entry


def fireworks(slug: str, kind: str = "HF_BASE_MODEL", account: str = "fireworks") -> Entry:
    """Returns an entry of Fireworks' list."""
    return "fireworks", {"id": f"accounts/{account}/models/{slug}", "kind": kind}


def chutes(model_id: str, root: str | None = None, quantization: str | None = None) -> Entry:
    """Returns an entry of Chutes' list; by default the root is the id without -TEE."""
    return "chutes", {
        "id": model_id,
        "root": root or model_id.removesuffix("-TEE"),
        "quantization": quantization,
    }


def deepinfra(model_id: str) -> Entry:
    """Returns an entry of DeepInfra's list, whose root is always the id."""
    return "deepinfra", {"id": model_id, "root": model_id}


def featherless(model_id: str) -> Entry:
    """Returns an entry of Featherless' list."""
    return "featherless", {"id": model_id}


def make_lists(*entries: Entry) -> list[tuple[Provider, ModelList]]:
    """Returns the lists of all providers with these entries."""
    lists = []
    for name, provider in PROVIDERS.items():
        packer = ModelPacker()
        models = [packer.pack(provider.normalize(raw)) for owner, raw in entries if owner == name]
        lists.append((provider, ModelList(models, provider.naming)))
    return lists


def match(*entries: Entry) -> Equivalents:
    """Returns the equivalents among the entries of these lists by provider."""
    return make_equivalents(make_lists(*entries))


SAME = [
    (fireworks("deepseek-v3p1"), deepinfra("deepseek-ai/DeepSeek-V3.1")),
    (fireworks("deepseek-v3p1-terminus"), chutes("deepseek-ai/DeepSeek-V3.1-Terminus-TEE", quantization="fp8")),
    (fireworks("deepseek-v3-0324"), deepinfra("deepseek-ai/DeepSeek-V3-0324")),
    (fireworks("deepseek-r1-0528"), featherless("deepseek-ai/DeepSeek-R1-0528")),
    (fireworks("deepseek-r1-distill-llama-70b"), deepinfra("deepseek-ai/DeepSeek-R1-Distill-Llama-70B")),
    (fireworks("kimi-k2-instruct-0905"), deepinfra("moonshotai/Kimi-K2-Instruct-0905")),
    (fireworks("kimi-k2-thinking"), deepinfra("moonshotai/Kimi-K2-Thinking")),
    (fireworks("kimi-k2p6"), featherless("moonshotai/Kimi-K2.6")),
    (fireworks("glm-4p5-air"), chutes("zai-org/GLM-4.5-Air", quantization="bf16")),
    (fireworks("glm-4p5v"), deepinfra("zai-org/GLM-4.5V")),
    (fireworks("glm-5p3"), chutes("zai-org/GLM-5.3-TEE", quantization="FP8")),
    (deepinfra("THUDM/GLM-4.5"), featherless("zai-org/GLM-4.5")),
    (fireworks("gpt-oss-120b"), chutes("openai/gpt-oss-120b-TEE")),
    (fireworks("gpt-oss-120b"), deepinfra("openai/gpt-oss-120b")),
    (fireworks("qwen3-235b-a22b-instruct-2507"), deepinfra("Qwen/Qwen3-235B-A22B-Instruct-2507")),
    (fireworks("qwen3-coder-480b-a35b-instruct"), featherless("Qwen/Qwen3-Coder-480B-A35B-Instruct")),
    (fireworks("qwen2p5-vl-32b-instruct"), chutes("Qwen/Qwen2.5-VL-32B-Instruct")),
    (fireworks("qwen3-embedding-0p6b", "EMBEDDING_MODEL"), deepinfra("Qwen/Qwen3-Embedding-0.6B")),
    (fireworks("qwq-32b"), featherless("Qwen/QwQ-32B")),
    (fireworks("llama-v3p1-8b-instruct"), deepinfra("meta-llama/Meta-Llama-3.1-8B-Instruct")),
    (fireworks("llama-v3p1-8b-instruct"), featherless("meta-llama/Llama-3.1-8B-Instruct")),
    (deepinfra("meta-llama/Meta-Llama-3.1-8B-Instruct"), featherless("meta-llama/Llama-3.1-8B-Instruct")),
    (fireworks("llama-v3p3-70b-instruct"), deepinfra("meta-llama/Llama-3.3-70B-Instruct")),
    (fireworks("llama-v3p2-90b-vision-instruct"), deepinfra("meta-llama/Llama-3.2-90B-Vision-Instruct")),
    (fireworks("gemma-3-27b-it"), chutes("google/gemma-3-27b-it")),
    (fireworks("mistral-small-24b-instruct-2501"), deepinfra("mistralai/Mistral-Small-24B-Instruct-2501")),
    (fireworks("minimax-m2"), chutes("MiniMaxAI/MiniMax-M2-TEE")),
    (fireworks("phi-3p5-vision-instruct"), featherless("microsoft/Phi-3.5-vision-instruct")),
    (chutes("Qwen/Qwen3-32B-TEE", "Qwen/Qwen3-32B-FP8", "fp8"), deepinfra("Qwen/Qwen3-32B-FP8")),
    (chutes("acme-labs/Quokka-V3-TEE", "acme-labs/Quokka-V3-FP8", "fp8"), featherless("acme-labs/Quokka-V3-FP8")),
    (chutes("tidewater/heron-4b-it", quantization="bf16"), featherless("tidewater/heron-4b-it")),
    (deepinfra("NousResearch/Hermes-4-70B"), featherless("NousResearch/Hermes-4-70B")),
    # Listed twice by one provider.
    (chutes("zai-org/GLM-4.6-TEE"), chutes("zai-org/GLM-4.6")),
    (chutes("a/M", quantization="int4"), ("chutes", {"id": "a/M-TEE", "root": "a/M", "quantization": "INT4"})),
]

DIFFERENT = [
    # version
    (fireworks("deepseek-v3"), deepinfra("deepseek-ai/DeepSeek-V3.1")),
    (fireworks("deepseek-v3p1"), deepinfra("deepseek-ai/DeepSeek-V31")),
    (fireworks("deepseek-v3p2"), deepinfra("deepseek-ai/DeepSeek-V3.2-Exp")),
    (fireworks("glm-5p3"), featherless("zai-org/GLM-5.2")),
    (fireworks("mixtral-8x7b-instruct"), deepinfra("mistralai/Mixtral-8x7B-Instruct-v0.1")),
    # size
    (fireworks("gpt-oss-20b"), deepinfra("openai/gpt-oss-120b")),
    (fireworks("llama-v3p1-8b-instruct"), deepinfra("meta-llama/Meta-Llama-3.1-70B-Instruct")),
    (fireworks("llama4-maverick-instruct-basic"), deepinfra("meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8")),
    (fireworks("glm-5p3"), chutes("zai-org/GLM-5.3-Flash-TEE")),
    # tuning
    (fireworks("deepseek-v3"), featherless("deepseek-ai/DeepSeek-V3-Base")),
    (fireworks("llama-v3p2-90b-instruct"), deepinfra("meta-llama/Llama-3.2-90B-Vision-Instruct")),
    (fireworks("kimi-k2-instruct"), deepinfra("moonshotai/Kimi-K2-Thinking")),
    (deepinfra("Qwen/Qwen3-8B"), featherless("Qwen/Qwen3-8B-Base")),
    (fireworks("llama-v3p1-405b-instruct-long"), deepinfra("meta-llama/Meta-Llama-3.1-405B-Instruct")),
    (fireworks("qwen3-235b-a22b"), chutes("Qwen/Qwen3-235B-A22B-Thinking-2507")),
    (deepinfra("google/gemma-3-27b-it"), featherless("huihui-ai/gemma-3-27b-it-abliterated")),
    # dated releases
    (fireworks("deepseek-r1"), deepinfra("deepseek-ai/DeepSeek-R1-0528")),
    (fireworks("kimi-k2-instruct"), deepinfra("moonshotai/Kimi-K2-Instruct-0905")),
    (fireworks("qwen3-235b-a22b"), deepinfra("Qwen/Qwen3-235B-A22B-Instruct-2507")),
    # stated quantisation
    (fireworks("llama-v3p3-70b-instruct"), deepinfra("meta-llama/Llama-3.3-70B-Instruct-Turbo")),
    (deepinfra("Qwen/Qwen3-32B"), chutes("Qwen/Qwen3-32B-TEE", "Qwen/Qwen3-32B-FP8", "fp8")),
    (deepinfra("Qwen/Qwen2.5-7B-Instruct"), featherless("Qwen/Qwen2.5-7B-Instruct-AWQ")),
    (deepinfra("a/M"), featherless("a/M-GGUF")),
    (fireworks("kimi-k2p6"), chutes("moonshotai/Kimi-K2.6-TEE", quantization="int4")),
    (chutes("a/M", quantization="fp8"), ("chutes", {"id": "a/M-TEE", "root": "a/M", "quantization": "bf16"})),
    (deepinfra("a/M-FP8"), chutes("a/M-FP8", quantization="bf16")),
    # owner
    (fireworks("gpt-oss-120b"), featherless("unsloth/gpt-oss-120b")),
    (deepinfra("meta-llama/Llama-3.1-8B-Instruct"), featherless("unsloth/Llama-3.1-8B-Instruct")),
    (fireworks("phind-code-llama-34b-v2"), featherless("microsoft/phind-code-llama-34b-v2")),
    (fireworks("kimi-k3", account="acme-example"), deepinfra("moonshotai/Kimi-K3")),
    (fireworks("ember-1"), featherless("acme/ember-1")),
    # an adapter, and no plain model
    (fireworks("kimi-k3", "HF_PEFT_ADDON"), deepinfra("moonshotai/Kimi-K3")),
    (fireworks("llama-v3p1-8b-instruct", "CUSTOM_MODEL"), deepinfra("meta-llama/Llama-3.1-8B-Instruct")),
    # an id and a root that contradict each other, an id without an owner, forms of a provider's own
    (
        chutes("Kestrel-Nano-30B-TEE", "saffron-forge/Kestrel-Nano-30B-A3B"),
        deepinfra("saffron-forge/Kestrel-Nano-30B-A3B"),
    ),
    (chutes("a/M", "a/M-v2"), deepinfra("a/M-v2")),
    (chutes("a/M", "a/M-v2"), deepinfra("a/M")),
    (deepinfra("a/M:v1"), featherless("a/M")),
    (chutes("M"), featherless("a/M")),
]


def ids(pair: tuple[Entry, Entry]) -> str:
    """Returns the name of a test."""
    return " ".join(raw["id"].removeprefix("accounts/fireworks/models/") for _, raw in pair)


@pytest.mark.parametrize("pair", SAME, ids=ids)
def test_the_same_model_is_found(pair: tuple[Entry, Entry]) -> None:
    found = match(*pair)

    keys = [(name, raw["id"]) for name, raw in pair]
    assert set(found) == set(keys)
    assert sorted((served.provider.name, served.model.id) for served in found[keys[0]]) == sorted(keys)
    assert found[keys[0]] is found[keys[1]]


@pytest.mark.parametrize("pair", DIFFERENT, ids=ids)
def test_another_model_is_not(pair: tuple[Entry, Entry]) -> None:
    assert match(*pair) == {}


def test_case_does_not_count_unless_one_list_tells_models_apart_by_it() -> None:
    upper, lower = deepinfra("Tidewater/Heron-4B"), featherless("tidewater/heron-4b")
    twice = featherless("Tidewater/Heron-4B")

    assert len(match(upper, lower)) == 2
    assert set(match(upper, lower, twice)) == {
        ("deepinfra", "Tidewater/Heron-4B"),
        ("featherless", "Tidewater/Heron-4B"),
    }


def test_what_states_no_quantisation_joins_the_others_only_if_they_agree() -> None:
    unstated, fp8 = deepinfra("a/M"), chutes("a/M", quantization="fp8")
    bf16: Entry = ("chutes", {"id": "a/M-TEE", "root": "a/M", "quantization": "bf16"})

    assert len(match(unstated, featherless("a/M"), fp8)) == 3
    assert set(match(unstated, featherless("a/M"), fp8, bf16)) == {("deepinfra", "a/M"), ("featherless", "a/M")}


OWNERS = st.sampled_from(["meta-llama", "Meta-Llama", "acme", "THUDM", "zai-org"])
NAMES = st.sampled_from(["Llama-3.1-8B", "Meta-Llama-3.1-8B", "llama-3.1-8b", "GLM-4.5", "glm-4.5", "Llama-3.1-8B-FP8"])
HUGGING_FACE_IDS = st.builds("{}/{}".format, OWNERS, NAMES)
ENTRIES = st.one_of(
    st.builds(fireworks, st.sampled_from(["llama-v3p1-8b", "llama-3p1-8b", "glm-4p5", "ember-1"])),
    st.builds(deepinfra, HUGGING_FACE_IDS),
    st.builds(featherless, HUGGING_FACE_IDS),
    st.builds(
        lambda name, tee, quantization: chutes(name + tee, quantization=quantization),
        HUGGING_FACE_IDS,
        st.sampled_from(["", "-TEE"]),
        st.sampled_from([None, "fp8", "bf16", "int4", "unknown"]),
    ),
)


FIREWORKS_NAMES = {
    "accounts/fireworks/models/llama-v3p1-8b": "meta-llama/llama-3.1-8b",
    "accounts/fireworks/models/llama-3p1-8b": "meta-llama/llama-3.1-8b",
    "accounts/fireworks/models/glm-4p5": "zai-org/glm-4.5",
}


def spell(model_id: str) -> str:
    """Returns the repository that one of these ids means."""
    folded = FIREWORKS_NAMES.get(model_id, model_id).lower().removesuffix("-tee")
    return folded.replace("thudm/", "zai-org/").replace("meta-llama/meta-", "meta-llama/")


@given(st.lists(ENTRIES, max_size=14, unique_by=lambda entry: (entry[0], entry[1]["id"])))
def test_it_is_symmetric_and_transitive_and_only_what_is_listed_twice_is_twice_in_it(entries: list[Entry]) -> None:
    found = match(*entries)

    for key, group in found.items():
        keys = [(served.provider.name, served.model.id) for served in group]
        assert key in keys and len(set(keys)) == len(keys) > 1
        assert all(found[other] is group for other in keys)  # symmetric, and so transitive
        assert len({served.model.weights for served in group}) == 1
        assert len({served.model.quantization for served in group} - {None}) <= 1
        assert len({spell(model_id) for _, model_id in keys}) == 1
        # Two models of one provider differ in more than case: in a moved owner, or in confidential computing.
        assert len({(name, model_id.lower()) for name, model_id in keys}) == len(keys)
    # The order of a list's entries makes no difference.
    assert {key: set(map(repr, group)) for key, group in match(*reversed(entries)).items()} == {
        key: set(map(repr, group)) for key, group in found.items()
    }


def test_a_long_list_is_read_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 3 * equivalents._SLICE_MODELS
    lists = make_lists(*(featherless(f"a/M-{number}") for number in range(count)), deepinfra("a/M-0"))
    pauses: list[float] = []
    monkeypatch.setattr("app.yielding.time", SimpleNamespace(sleep=pauses.append))

    found = make_equivalents(lists)

    assert len(found) == 2
    assert len(pauses) == 3 and min(pauses) > 0


def test_equivalents_follow_the_lists(upstream: ScriptedUpstream) -> None:
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("deepseek-v3p1", "glm-5p3")))
    upstream.on_path(BASE_PATHS["deepinfra"] + "/models", list_answer(plain_rows("deepseek-ai/DeepSeek-V3.1")))
    own = PROVIDERS["fireworks"]
    with catalogs_of(provider_environment(root_of(upstream), ["fireworks", "deepinfra"])):
        assert get_equivalents(own, "accounts/fireworks/models/deepseek-v3p1") == ()
        refresh_if_due()
        (found,) = wait_until(lambda: get_equivalents(own, "accounts/fireworks/models/deepseek-v3p1"))

        assert isinstance(found, Served) and found.model.id == "deepseek-ai/DeepSeek-V3.1"
        (back,) = get_equivalents(PROVIDERS["deepinfra"], found.model.id)
        assert back.model.id == "accounts/fireworks/models/deepseek-v3p1"
        assert get_equivalents(own, "accounts/fireworks/models/glm-5p3") == ()
        assert get_equivalents(own, "no such model") == ()
