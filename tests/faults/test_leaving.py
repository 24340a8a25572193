"""Properties of every case of a client that disconnects or stalls, directly and behind nginx."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.leaving import BOUNDS_S, DEPARTURES, SETTINGS, Caller, Left
from tests.faults.nginx import NO_NGINX, Door
from tests.faults.table import SLACK_S
from tests.support.answers import chat_answer
from tests.support.chat import PREFIX
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only

pytestmark = soak_only("routes/test_chat_client_leaves.py::test_the_provider_is_told_at_once")

# More than all kernel buffers on the way hold.
_UNREAD_BYTES = 30_000_000
NAMES = [departure.name for departure in DEPARTURES]


@pytest.mark.parametrize("name", NAMES)
def test_the_row_tells_who_ended_it_and_what_was_used(departures: dict[str, Left], name: str) -> None:
    departure, rows = departures[name].departure, departures[name].rows
    for door, row in rows.items():
        if departure.unseen_behind and door == "nginx":
            assert row is None
        else:
            assert row is not None
            assert (row["outcome"], row["usage_source"]) == (departure.outcome, departure.usage)
            assert row["status"] == (499 if departure.outcome == "client_gone" else 200)


@pytest.mark.parametrize("name", NAMES)
def test_the_provider_is_let_go_in_time(departures: dict[str, Left], name: str) -> None:
    left = departures[name]
    for took_s in left.took_s.values():
        assert took_s is None or took_s < BOUNDS_S[left.departure.bound] + SLACK_S
    if left.departure.outcome == "client_gone" and not left.departure.unseen_behind:
        assert all("hung up on" in words for words in left.provider.values()) or "try again" in name


def test_a_client_that_leaves_ends_the_retries(departures: dict[str, Left]) -> None:
    seen = departures["leaves while the gateway waits to try again"].provider
    assert set(seen.values()) == {"1 request"}


def test_a_client_that_does_not_read_holds_its_provider_back(departures: dict[str, Left]) -> None:
    # At most what the kernel buffers on the way hold, in both directions. Without backpressure it would be far more.
    assert all(sent < 40_000_000 for sent in departures["stops reading a stream"].bytes_sent.values())


@pytest.mark.parametrize("door", ["direct", "nginx"])
def test_a_client_that_never_reads_is_dropped(received_late: dict[str, int], door: str) -> None:
    if door not in received_late:
        pytest.skip(NO_NGINX)
    assert received_late[door] < _UNREAD_BYTES


@pytest.fixture(scope="module")
def received_late(patient_doors: list[Door], faulty_upstream: ScriptedUpstream) -> dict[str, int]:
    """The bytes that a client received at each door when it began to read after the gateway had dropped it."""
    faulty_upstream.on_model("never-read-", chat_answer("x" * _UNREAD_BYTES))

    def read_late(number: int, door: Door) -> int:
        caller = Caller(door, faulty_upstream, f"{PREFIX}never-read-{number}")
        with caller.connection as connection:
            caller.ask(stream=False)
            caller.await_provider()
            time.sleep(float(SETTINGS["CLIENT_SEND_TIMEOUT"]) + 1.5)
            received = 0
            try:
                while piece := connection.recv(1_000_000):
                    received += len(piece)
            except ConnectionResetError:
                pass
        return received

    with ThreadPoolExecutor(len(patient_doors)) as pool:
        counts = pool.map(read_late, range(len(patient_doors)), patient_doors)
        return {door.name: count for door, count in zip(patient_doors, counts, strict=True)}
