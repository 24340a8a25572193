"""Users' keys keep working in an outage of PostgreSQL: in all workers, after restarts, and on one of several hosts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app.services.keys import GRACE_S, REVOCATION_S, new_key
from app.services.keys.snapshot_file import NAME
from tests.support.chat import PREFIX, Seen, post_chat, request
from tests.support.database_proxy import running_database_proxy
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.gateways import Gateways
from tests.support.key_file import confirm_earlier, has_key
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import FULL, soak_only
from tests.support.user_keys import make_key, revoke
from tests.support.waiting import wait_until

# Of two workers, one has not served the key yet when the database goes away; four are typical of a host.
WORKERS = 4 if FULL else 2
MODEL = f"{PREFIX}outage"


def ask(gateways: Sequence[Gateway], key: str, count: int) -> Counter[int]:
    """Sends `count` chats at once, on separate connections, to the gateways in turn; returns counts of the statuses."""
    with ThreadPoolExecutor(16) as pool:
        chosen = [gateways[number % len(gateways)] for number in range(count)]
        return Counter(pool.map(lambda gateway: post_chat(gateway, MODEL, key=key).status, chosen))


def get_ready(gateway: Gateway) -> Any:
    """Returns the answer of one worker's `/ready`."""
    return request("GET", f"{gateway.url}/ready").json


def get_metric(gateway: Gateway, name: str) -> float:
    """Returns the value of a metric, -1 while it is missing."""
    lines = request("GET", f"{gateway.url}/metrics").body.decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), -1)


class Place(NamedTuple):
    """A gateway of several workers on a PostgreSQL that a test may stop, and a key that no worker has served yet."""

    gateway: Gateway
    postgres: Postgres
    url: str
    file: Path
    key: str


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    """The provider of these tests."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def place(
    tree: Path, victim: Postgres, victim_url: str, upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """The gateway of the tests on one host."""
    directory, key = tmp_path_factory.mktemp("outage"), make_key(victim_url)
    settings = base_settings(directory, victim_url) | upstream.settings
    with running_gateway(tree, directory, settings, workers=WORKERS) as gateway:
        file = directory / "journal" / NAME
        wait_until(lambda: has_key(file, key), what="the key to be in the file")
        yield Place(gateway, victim, victim_url, file, key)


@soak_only(
    "services/keys/test_snapshot_file.py::test_a_worker_that_starts_without_the_database_uses_it_until_the_grace_time_ends"
)
@pytest.mark.soak
def test_every_worker_knows_every_key_and_serves_them_through_an_outage_and_a_reload(place: Place) -> None:
    gateway = place.gateway
    place.postgres.stop()
    assert ask([gateway], place.key, 16) == {200: 16}
    gateway.reload()
    wait_until(lambda: gateway.log().count("key_file_loaded") >= WORKERS, what="the workers to load the file")
    assert ask([gateway], place.key, 40) == {200: 40}
    ready = get_ready(gateway)
    assert ready["ready"] and ready["keys"].items() >= {"known": 1, "source": "file", "usable": True}.items()
    assert "The keys that it had (1) work for another" in ready["problems"]["keys"]
    wait_until(lambda: get_metric(gateway, "gateway_database_up") == 0, what="the gauge")

    place.postgres.start()
    wait_until(lambda: get_metric(gateway, "gateway_database_up") == 1, what="the gauge")
    assert "keys" not in get_ready(gateway)["problems"]
    revoke(place.url, place.key)
    wait_until(lambda: ask([gateway], place.key, 16) == {401: 16}, REVOCATION_S, "the key to stop in all workers")
    assert "Traceback" not in gateway.log()


@soak_only(
    "services/keys/test_snapshot_file.py::test_a_worker_that_starts_without_the_database_uses_it_until_the_grace_time_ends"
)
def test_of_two_hosts_the_one_that_is_cut_off_serves_until_the_grace_time_ends(
    gateways: Gateways, database_url: str, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    key, kept = make_key(database_url), make_key(database_url)
    file = tmp_path / "journal" / NAME
    with ExitStack() as stack:
        proxy = stack.enter_context(running_database_proxy(database_url))
        near = stack.enter_context(gateways.running(database_url, upstream.settings))
        with gateways.running(proxy.url, upstream.settings, place=tmp_path) as far:
            wait_until(lambda: has_key(file, key), what="the key to be in the file")
            proxy.cut()
            assert ask([near, far], key, 20) == {200: 20}
            far.stop()
        far = stack.enter_context(gateways.running(proxy.url, upstream.settings, place=tmp_path))
        assert get_ready(far)["keys"]["source"] == "file"
        assert ask([near, far], key, 20) == {200: 20}
        _check_refused(post_chat(far, MODEL, key=new_key()))
        revoke(database_url, key)
        wait_until(lambda: ask([near], key, 1) == {401: 1}, REVOCATION_S, "the key to stop")
        assert ask([far], key, 5) == {200: 5}, "this host cannot know"

        confirm_earlier(file, GRACE_S)
        far.reload()
        _check_that_users_are_refused(far, kept)
        proxy.mend()
        wait_until(lambda: ask([far], kept, 1) == {200: 1}, what="the other key to work again")
        assert ask([far], key, 1) == {401: 1}
        wait_until(lambda: get_metric(far, "gateway_key_snapshot_age_seconds") < GRACE_S, what="the gauge of the age")


def _check_that_users_are_refused(gateway: Gateway, key: str) -> None:
    failed = 'gateway_key_checks_failed_total{reason="database_unavailable"}'
    before = get_metric(gateway, failed)
    for _ in range(5):
        _check_refused(post_chat(gateway, MODEL, key=key))
    assert get_metric(gateway, failed) == before + 5
    assert post_chat(gateway, MODEL).status == 200, "the operator's key works"
    ready = get_ready(gateway)
    assert ready["ready"] and not ready["keys"]["usable"]
    assert "which is too long, so user keys get 503" in ready["problems"]["keys"]
    wait_until(lambda: get_metric(gateway, "gateway_key_snapshot_age_seconds") == math.inf, what="the gauge of the age")


def _check_refused(seen: Seen) -> None:
    assert (seen.status, seen.error["type"], seen.error["code"]) == (503, "unavailable_error", "database_unavailable")
    assert int(seen.headers["retry-after"]) > 0 and "Retry" in seen.error["message"]
