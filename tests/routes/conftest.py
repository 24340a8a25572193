"""A gateway of little patience that the tests of faults share, and the upstreams before which it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address

# Long enough for a busy machine to answer in between, short enough to be waited for. The total stands above the
# rest, because every test on this gateway has to be over by then.
HASTY = {
    "UPSTREAM_CONNECT_TIMEOUT": "0.5",
    "UPSTREAM_FIRST_BYTE_TIMEOUT": "1.2",
    "UPSTREAM_IDLE_TIMEOUT": "1.2",
    "UPSTREAM_TOTAL_TIMEOUT": "5",
    "STREAM_HEARTBEAT": "0.5",
    "CLIENT_SEND_TIMEOUT": "1",
    "MAX_BODY_BYTES": "300000",
}


@pytest.fixture(scope="session")
def hasty_upstream() -> Iterator[ScriptedUpstream]:
    """The scripted upstream that plays Fireworks for `hasty_gateway`; scripts are told apart by model names."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="session")
def hasty_gateway(
    tree: Path,
    session_database_url: str,
    hasty_upstream: ScriptedUpstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway with short timeouts: Fireworks is scripted, DeepInfra refuses connections, Chutes lets them hang."""
    place = tmp_path_factory.mktemp("hasty-gateway")
    with ExitStack() as stack:
        providers = {
            "FIREWORKS_BASE_URL": hasty_upstream.base_url,
            "FIREWORKS_API_KEY": "fw_test",
            "DEEPINFRA_BASE_URL": stack.enter_context(refused_address()),
            "DEEPINFRA_API_KEY": "di_test",
            "CHUTES_BASE_URL": stack.enter_context(unanswered_address()),
            "CHUTES_API_KEY": "ch_test",
        }
        settings = base_settings(place, session_database_url) | HASTY | providers
        yield stack.enter_context(running_gateway(tree, place, settings))
