"""Targets whose address is dead: refused, never accepted, without TLS; and one that is silent for too long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fallback.failures import SETTINGS
from tests.fallback.providers import serve, wait_for_lists
from tests.support.answers import json_answer
from tests.support.catalogs import BASE_PATHS, list_answer, pages_answer, plain_rows, provider_environment, root_of
from tests.support.chat import PREFIX, Seen, post_chat, wait_for_row
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.scripts import close, hang, pause, send
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

pytestmark = soak_only(
    "fallback/test_failures.py::test_the_targets_are_tried_in_order_until_one_serves_or_refuses_the_request"
)

# Provider → the error at its address.
DEAD = {
    "fireworks": "upstream_tls_error",
    "deepinfra": "upstream_unreachable",
    "chutes": "upstream_connect_timeout",
}
MODELS = 40


def get_model(provider: str, number: int) -> str:
    """Returns the name of a provider's model."""
    return f"{PREFIX if provider == 'fireworks' else provider + '-ai/'}d{number}"


class Addresses:
    """A gateway in front of three dead providers and a live one, Featherless."""

    def __init__(self, gateway: Gateway, living: ScriptedUpstream, database_url: str) -> None:
        self.gateway, self.living, self.database_url = gateway, living, database_url
        self._next = 0

    def ask(self, plan: list[str], *, is_stream: bool = False) -> tuple[Seen, list[dict[str, object]]]:
        """Sends a request to these targets: dead providers, "503" and "200"; also returns the recorded attempts."""
        models = []
        for each in plan:
            self._next += 1
            models.append(get_model(each if each in DEAD else "featherless", self._next))
            if each not in DEAD:
                is_good = each == "200"
                script = serve(is_stream=is_stream) if is_good else json_answer({"error": "busy"}, 503)
                self.living.on_model(f"/d{self._next}", [hang()] if each == "silent" else script)
        seen = post_chat(self.gateway, models[0], models=models, stream=is_stream)
        return seen, wait_for_row(self.database_url, seen.request_id)["attempts"]


@pytest.fixture(scope="module")
def addresses(gateways: Gateways, session_database_url: str) -> Iterator[Addresses]:
    """The gateway; two of its providers die after their lists are loaded."""
    with ExitStack() as stack:
        living = stack.enter_context(ScriptedUpstream())
        dying = {name: ScriptedUpstream() for name in ("deepinfra", "chutes")}
        settings = SETTINGS | {"FALLBACK_AFTER": "1.5", "UPSTREAM_FIRST_BYTE_TIMEOUT": "20"}
        for name, upstream in (*dying.items(), ("featherless", living)):
            rows = plain_rows(*(get_model(name, number) for number in range(MODELS)))
            script = pages_answer([rows]) if name == "featherless" else list_answer(rows)
            upstream.on_path(f"{BASE_PATHS[name]}/models", script)
            settings |= provider_environment(root_of(upstream), [name])
        without_tls = stack.enter_context(ScriptedUpstream())
        without_tls.on_accept = [send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), pause(0.2), close()]
        settings |= provider_environment(f"https://127.0.0.1:{without_tls.port}", ["fireworks"])
        gateway = stack.enter_context(gateways.running(session_database_url, settings))
        wait_for_lists(gateway, (*dying, "featherless"))
        for upstream, address in zip(dying.values(), (refused_address, unanswered_address), strict=True):
            upstream.close()
            stack.enter_context(address(upstream.port))
        yield Addresses(gateway, living, session_database_url)


@pytest.mark.parametrize("provider", DEAD)
def test_a_dead_address_is_passed_over_wherever_it_stands(addresses: Addresses, provider: str) -> None:
    dead = f"{provider}={DEAD[provider]}"
    for plan, shown, status in [
        ([provider, "200"], f"{dead}, featherless=200", 200),
        (["503", provider, "200"], f"featherless=503, {dead}, featherless=200", 200),
        (["503", "503", provider], f"featherless=503, featherless=503, {dead}", None),
    ]:
        seen, attempts = addresses.ask(plan, is_stream=len(plan) == 2)
        assert seen.headers["x-gateway-attempts"] == shown
        assert seen.status == status if status else seen.status in (502, 503, 504)
        assert [attempt["status"] for attempt in attempts if attempt["provider"] == provider] == [None]


def test_if_all_addresses_are_dead_the_client_is_told_so_once(addresses: Addresses) -> None:
    seen, attempts = addresses.ask(list(DEAD))
    assert seen.status in (502, 504) and seen.error["code"] in DEAD.values()
    assert [attempt["error"] for attempt in attempts] == list(DEAD.values())


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_target_that_is_silent_past_fallback_after_is_hung_up_on_before_the_next_is_asked(
    addresses: Addresses, is_stream: bool
) -> None:
    before = len(addresses.living.calls)
    seen, attempts = addresses.ask(["silent", "200"], is_stream=is_stream)
    assert (seen.status, seen.cut) == (200, False)
    assert seen.headers["x-gateway-attempts"] == "featherless=upstream_first_byte_timeout, featherless=200"
    silent, serving = addresses.living.calls[before:]
    wait_until(lambda: silent.gone_at, what="the gateway to hang up")
    assert serving.received_at - silent.received_at > 1 and float(str(attempts[0]["ms"])) < 20_000
