"""Gateways that several files share: one with short timeouts for faults, and one in front of all four providers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.catalogs import provider_environment
from tests.support.chat import request
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.sandbox import Sandbox
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.waiting import wait_until

# Timeouts that are long enough for answers on a busy machine, and short enough for a test to wait for. The total is
# longer than the others, because every request of these tests must end before it.
HASTY = {
    "UPSTREAM_CONNECT_TIMEOUT": "0.5",
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "3",
    "UPSTREAM_IDLE_TIMEOUT": "3",
    "UPSTREAM_TOTAL_TIMEOUT": "8",
    "STREAM_HEARTBEAT": "0.5",
    "CLIENT_SEND_TIMEOUT": "1",
    "CLIENT_BODY_TIMEOUT": "3",
    "MAX_BODY_BYTES": "300000",
}


@pytest.fixture(scope="session")
def hasty_upstream() -> Iterator[ScriptedUpstream]:
    """The scripted upstream that plays Fireworks for `hasty_gateway`; a script is chosen by the model name."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def hasty_gateway(gateways: Gateways, session_database_url: str, hasty_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """A gateway with short timeouts: Fireworks is scripted, DeepInfra refuses connections, Chutes lets them hang."""
    with refused_address() as refusing, unanswered_address() as hanging:
        providers = hasty_upstream.settings | {
            "DEEPINFRA_BASE_URL": refusing,
            "DEEPINFRA_API_KEY": "di_test",
            "CHUTES_BASE_URL": hanging,
            "CHUTES_API_KEY": "ch_test",
        }
        with gateways.running(session_database_url, HASTY | providers) as gateway:
            yield gateway


@pytest.fixture(scope="session")
def gateway_of_four(gateways: Gateways, session_database_url: str, sandbox: Sandbox) -> Iterator[Gateway]:
    """A gateway in front of the sandbox's four providers, their lists of models loaded."""
    providers = provider_environment(sandbox.url, key="sandbox")
    with gateways.running(session_database_url, providers) as gateway:
        wait_until(lambda: all(state["models"] for state in _get_catalogs(gateway).values()), what="the four lists")
        yield gateway


def _get_catalogs(gateway: Gateway) -> dict[str, dict[str, Any]]:
    catalogs: dict[str, dict[str, Any]] = request("GET", gateway.url + "/ready").json["catalogs"]
    return catalogs
