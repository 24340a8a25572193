"""`owned_by` in the list for SDKs: the organisation in its id, or else the provider."""

from __future__ import annotations

from typing import Any

import pytest

from app.services.models import make_merged_model
from app.services.models.entry import ModelPacker
from app.services.providers import PROVIDERS

IDS: list[tuple[str, dict[str, Any], str]] = [
    ("fireworks", {"id": "accounts/fireworks/models/kimi-k3"}, "fireworks"),
    ("fireworks", {"id": "accounts/acme/models/own"}, "acme"),
    ("fireworks", {"id": "nomic-ai/nomic-embed-text-v1.5"}, "nomic-ai"),
    ("fireworks", {"id": "kimi-latest"}, "fireworks"),
    ("featherless", {"id": "Org/Name", "owned_by": "Feather"}, "Org"),
    ("featherless", {"id": "name"}, "featherless"),
    ("deepinfra", {"id": "name", "owned_by": "deepinfra"}, "deepinfra"),
    ("chutes", {"id": "Org/Name-TEE", "owned_by": "sglang"}, "Org"),
    ("chutes", {"id": "name", "root": "Org/Weights", "owned_by": "vllm"}, "chutes"),
]


@pytest.mark.parametrize(("provider", "raw", "owner"), IDS, ids=str)
def test_the_owner_is_in_the_id_or_is_the_provider(provider: str, raw: dict[str, Any], owner: str) -> None:
    model = ModelPacker().pack(PROVIDERS[provider].normalize(raw))
    assert make_merged_model(model, model.id).owned_by == owner
    assert (model.id, model.name) == (raw["id"], raw["id"].rpartition("/")[2])
