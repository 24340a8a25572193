"""A fifth provider is one file and two settings: added to a copy of the project, and used for chats over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.answers import chat_answer, head
from tests.support.catalogs import list_answer, root_of
from tests.support.chat import post_chat, wait_for_row
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import send
from tests.support.tree import copy_tree
from tests.support.waiting import wait_until

PROVIDER_FILE = '''
"""A provider that is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.services.pricing import Billing
from app.services.providers.entry_fields import COMMON_PARAMETERS, Entry, make_entry, make_parameters
from app.services.providers.entry_fields import read_count, read_usd_per_million
from app.services.providers.naming import make_hugging_face_naming
from app.services.providers.pages import fetch_single_page
from app.services.providers.provider import EndpointSupport, Provider


def normalize_model(raw: Mapping[str, Any]) -> Entry:
    """Returns the provider's entry in the catalog's form."""
    return make_entry(
        PROVIDER,
        str(raw["id"]),
        raw,
        context_length=read_count(raw.get("window")),
        inputs=["text"],
        outputs=["text"],
        parameters=make_parameters(COMMON_PARAMETERS, False),
        capabilities=(True, False, False, False, False),
        prices=(read_usd_per_million(raw.get("in")), read_usd_per_million(raw.get("out")), None),
    )


PROVIDER = Provider(
    name="quokka",
    title="Quokka",
    site_url="https://quokka.example",
    serves={
        "chat": EndpointSupport(
            path="/chat/completions",
            dropped_fields=frozenset({"store"}),
            renamed_fields={"max_completion_tokens": "max_new_tokens"},
            ranges={"top_k": (1, 7)},
        )
    },
    fetch_pages=fetch_single_page,
    normalize=normalize_model,
    naming=make_hugging_face_naming(),
    billing=Billing(name="quokka"),
    shown_headers=frozenset({"x-quokka-pool"}),
)
'''

SETTINGS = """
    quokka_api_key: tuple[str, ...] = _setting("QUOKKA_API_KEY", "", parse_secrets)
    quokka_base_url: str = _setting("QUOKKA_BASE_URL", "https://quokka.example/v1", parse_http_url)
"""

MODEL = "zeta/Bandicoot-4B"


@pytest.fixture(scope="module")
def quokka() -> Iterator[ScriptedUpstream]:
    """The upstream that plays the fifth provider, which lists one model at 0.5 and 2 USD per million tokens."""
    with ScriptedUpstream() as upstream:
        upstream.on_path("/models", list_answer([{"id": MODEL, "window": 4096, "in": 0.5, "out": 2}]))
        yield upstream


@pytest.fixture(scope="module")
def five(
    quokka: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory, session_database_url: str
) -> Iterator[Gateway]:
    """A gateway that runs from a copy of the project with a fifth provider, which is the only one configured."""
    place = tmp_path_factory.mktemp("five")
    tree = copy_tree(place / "gateway")
    (tree / "app/services/providers/quokka.py").write_text(PROVIDER_FILE)
    config = tree / "app/config.py"
    before, field, after = config.read_text().partition("    database_url:")
    config.write_text(before + SETTINGS.lstrip("\n") + "\n" + field + after)
    own = {"QUOKKA_API_KEY": "qk_test", "QUOKKA_BASE_URL": f"{root_of(quokka)}/v1"}
    with running_gateway(tree, place, base_settings(place, session_database_url) | own) as gateway:
        wait_until(lambda: _get(gateway, "/ready")["catalogs"]["quokka"]["models"], what="the list")
        yield gateway


def _get(gateway: Gateway, path: str) -> dict[str, Any]:
    with urlopen(gateway.url + path, timeout=30) as response:
        body: dict[str, Any] = json.load(response)
    return body


@pytest.mark.parametrize("more", [{"provider": "quokka"}, {}], ids=["named", "found in its list"])
def test_it_serves_a_chat_request(
    five: Gateway, quokka: ScriptedUpstream, session_database_url: str, more: dict[str, Any]
) -> None:
    quokka.on_model(MODEL, chat_answer("Hello from the fifth.", model=MODEL))

    seen = post_chat(five, MODEL, store=True, max_completion_tokens=9, top_k=7, **more)

    assert seen.status == 200
    assert seen.json["choices"][0]["message"]["content"] == "Hello from the fifth."
    assert (seen.headers["x-gateway-provider"], seen.headers["x-gateway-dropped-params"]) == ("quokka", "store")
    sent = quokka.requests[-1]
    assert (sent.path, sent.headers["authorization"]) == ("/v1/chat/completions", "Bearer qk_test")
    assert (sent.json["max_new_tokens"], "max_completion_tokens" in sent.json) == (9, False)
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["gateway"], row["outcome"], row["price_source"]) == ("quokka", "ok", "quokka")
    assert row["cost_usd"] * 1_000_000 == 11 * 5 / 10 + 3 * 2


def test_its_name_in_another_case_and_with_its_provider_before_it_is_found(five: Gateway) -> None:
    for name in (MODEL.upper(), f"quokka/{MODEL}"):
        assert post_chat(five, name).status == 200


def test_its_own_range_and_its_own_headers_count(five: Gateway, quokka: ScriptedUpstream) -> None:
    assert post_chat(five, MODEL, top_k=8).error["param"] == "top_k"
    body = b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]}'
    fields = {"content-type": "application/json", "content-length": str(len(body)), "x-quokka-pool": "7"}
    fields["x-quokka-host"] = "internal-9"
    quokka.on_model(MODEL, [send(head(200, fields | {"fireworks-pool": "8"}) + body)])

    headers = post_chat(five, MODEL).headers

    assert headers["x-quokka-pool"] == "7" and not headers.keys() & {"x-quokka-host", "fireworks-pool"}


def test_the_catalog_and_its_choices_have_it(five: Gateway) -> None:
    (entry,) = _get(five, "/api/catalog/models?gateway=quokka")["data"]

    assert (entry["id"], entry["context_length"], entry["source_gateway"]) == (MODEL, 4096, "quokka")
    assert (entry["pricing"]["prompt"], entry["pricing_source"]) == ("0.0000005", "quokka")
    assert "fireworks, featherless, deepinfra, chutes, quokka." in post_chat(five, MODEL, provider="x").error["message"]
