"""Refetching of lists, the callers that wait for it, and the acceptance of new lists, with every upstream fault."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.config import load_settings
from app.errors import Unavailable
from app.runtime import use_settings
from app.services import models
from app.services.models import cache
from app.services.models.cache import Catalog
from app.services.models.catalog import get_catalog
from app.services.providers import pages
from app.services.providers.fireworks import PROVIDER as FIREWORKS
from tests.support.answers import json_answer
from tests.support.catalogs import (
    FIREWORKS_LIST,
    catalogs_of,
    fireworks_rows,
    list_answer,
    provider_environment,
    root_of,
    seen_at,
)
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Script, close, hang, reset, send, wait_for
from tests.support.waiting import wait_until

GOOD = [f"model-{number}" for number in range(10)]

FAULTS: dict[str, Script] = {
    "a refused key": json_answer({"error": {"message": "bad key"}}, 401),
    "a suspended account": json_answer({"error": {"message": "suspended"}}, 412),
    "an internal error": json_answer({"error": {"message": "oops"}}, 500),
    "a page of HTML": json_answer(b"<html>Bad gateway</html>", 502, {"content-type": "text/html"}),
    "HTML with status 200": json_answer(b"<html>Welcome</html>"),
    "half a JSON document": json_answer(b'{"object": "list", "data": [{"id": "accounts/'),
    "a bare array": json_answer(fireworks_rows(*GOOD)),
    "no array": json_answer({"object": "list", "data": {"id": "x"}}),
    "null": json_answer(None),
    "an empty list": list_answer([]),
    "entries without ids": list_answer([{"name": "x"}, 7, None, {"id": 3}, {"id": ""}]),
    "less than half the list": list_answer(fireworks_rows(*GOOD[:4])),
    "a connection closed early": [send(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{"), close()],
    "a reset": [reset()],
    "a response that never comes": [hang()],
    "a response that never ends": [send(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{"), hang()],
}


@pytest.fixture
def fireworks(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedUpstream]:
    """An upstream that lists ten models, and Fireworks configured."""
    monkeypatch.setattr(cache, "REFRESH_SPREAD_S", 0.0)
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows(*GOOD)))
    with catalogs_of(provider_environment(root_of(upstream), ["fireworks"])):
        yield upstream


def _catalog() -> Catalog:
    return get_catalog(FIREWORKS)


def _expire() -> None:
    _catalog().cache["timestamp"] -= 1801


def _names() -> list[str]:
    return [model.name for model in models.get_model_list(FIREWORKS)]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_never_replaces_a_good_list(
    fireworks: ScriptedUpstream, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _names() == GOOD
    monkeypatch.setattr(pages, "PAGE_TIMEOUT_S", 0.5)
    fireworks.on_path(FIREWORKS_LIST, FAULTS[fault])
    _expire()

    assert _names() == GOOD
    wait_until(lambda: _catalog().last_error, what="the refresh to fail")
    state = models.get_catalog_states()["fireworks"]
    assert _names() == GOOD
    assert state.stale
    assert state.age_s is not None and state.age_s > 1800
    assert state.error


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "less than half the list"])
def test_a_cold_start_with_a_fault_is_refused_and_then_refused_at_once(
    fireworks: ScriptedUpstream, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_TIMEOUT_S", 0.5)
    fireworks.on_path(FIREWORKS_LIST, FAULTS[fault])

    with pytest.raises(Unavailable) as caught:
        models.get_model_list(FIREWORKS)
    assert caught.value.status == 503
    assert caught.value.retry_after_s is not None and 0 < caught.value.retry_after_s <= 5
    assert "The model list of Fireworks could not be loaded: " in caught.value.message

    for _ in range(20):
        with pytest.raises(Unavailable):
            models.get_model_list(FIREWORKS)
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 1, "no fetch within the pause"


def test_callers_of_a_hanging_first_fetch_share_one_bounded_wait(
    fireworks: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "COLD_WAIT_S", 0.2)
    gate = Gate()
    fireworks.on_path(FIREWORKS_LIST, [wait_for(gate), *list_answer(fireworks_rows(*GOOD))])

    with ThreadPoolExecutor(20) as pool:
        refused = [pool.submit(models.get_model_list, FIREWORKS).exception() for _ in range(20)]
    assert all(isinstance(error, Unavailable) and "is still being loaded" in error.message for error in refused)
    # The limit on waiting counts from the start of the fetch, so a later caller is refused without a wait.
    monkeypatch.setattr(threading.Event, "wait", _fail_on_a_wait)
    with pytest.raises(Unavailable):
        models.get_model_list(FIREWORKS)
    monkeypatch.undo()

    gate.open()
    wait_until(lambda: _catalog().cache["data"], what="the list")
    assert _names() == GOOD
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 1


def _fail_on_a_wait(event: threading.Event, timeout: float | None = None) -> bool:
    assert timeout == 0, f"waited {timeout} s"
    return event.is_set()


def test_fifty_cold_callers_share_one_fetch(fireworks: ScriptedUpstream) -> None:
    gate = Gate()
    fireworks.on_path(FIREWORKS_LIST, [wait_for(gate), *list_answer(fireworks_rows(*GOOD))])

    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(_names) for _ in range(50)]
        fireworks.wait_for(lambda seen: seen.path == FIREWORKS_LIST)
        gate.open()
        assert all(future.result() == GOOD for future in waiting)
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 1


def test_after_the_ttl_the_old_list_is_served_while_one_refresh_runs(fireworks: ScriptedUpstream) -> None:
    assert _names() == GOOD
    gate = Gate()
    fireworks.on_path(FIREWORKS_LIST, [wait_for(gate), *list_answer(fireworks_rows(*GOOD, "new"))])
    _expire()

    with ThreadPoolExecutor(50) as pool:
        assert all(names == GOOD for names in pool.map(lambda _: _names(), range(500)))
    gate.open()

    wait_until(lambda: "new" in _names(), what="the new list")
    assert not models.get_catalog_states()["fireworks"].stale
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 2


def test_the_pause_grows_with_each_failure(fireworks: ScriptedUpstream) -> None:
    assert _names() == GOOD
    fireworks.on_path(FIREWORKS_LIST, FAULTS["an internal error"])
    _expire()

    for tries, pause_s in enumerate([60, 120, 240, 480, 900, 900], start=1):
        models.refresh_if_due()
        wait_until(lambda tries=tries: _catalog()._failures == tries, what="the refresh to fail")  # type: ignore[misc]
        models.refresh_if_due()
        assert len(seen_at(fireworks, FIREWORKS_LIST)) == 1 + tries, "no fetch within the pause"
        # The pause began a moment ago, so a little of it may be over.
        assert 0.7 * pause_s < _catalog()._next_try_s - time.monotonic() <= pause_s
        _catalog()._next_try_s = 0.0


def test_a_successful_refresh_ends_the_pause_and_the_staleness(fireworks: ScriptedUpstream) -> None:
    assert _names() == GOOD
    fireworks.on_path(FIREWORKS_LIST, FAULTS["an internal error"])
    _expire()
    models.refresh_if_due()
    wait_until(lambda: _catalog().last_error, what="the refresh to fail")

    fireworks.on_path(FIREWORKS_LIST, list_answer(fireworks_rows(*GOOD, "new")))
    _catalog()._next_try_s = 0.0

    wait_until(lambda: "new" in _names(), what="the new list")
    state = models.get_catalog_states()["fireworks"]
    assert (state.stale, state.error, state.models) == (False, None, 11)


def test_a_list_that_stays_short_for_a_day_is_accepted(fireworks: ScriptedUpstream) -> None:
    assert _names() == GOOD
    fireworks.on_path(FIREWORKS_LIST, FAULTS["less than half the list"])
    _catalog().cache["timestamp"] -= 86_401

    models.refresh_if_due()

    wait_until(lambda: _names() == GOOD[:4], what="the short list")


def test_a_list_that_shrinks_to_half_is_accepted_at_once(fireworks: ScriptedUpstream) -> None:
    assert _names() == GOOD
    fireworks.on_path(FIREWORKS_LIST, list_answer(fireworks_rows(*GOOD[:5])))
    _expire()

    wait_until(lambda: _names() == GOOD[:5], what="the shorter list")


def test_an_unreadable_entry_does_not_affect_the_others(fireworks: ScriptedUpstream) -> None:
    odd = {"id": "accounts/fireworks/models/odd", "kind": ["x"], "created": "soon", "context_length": -1}
    fireworks.on_path(FIREWORKS_LIST, list_answer([None, odd, *fireworks_rows(*GOOD)]))

    assert _names() == ["odd", *GOOD]


def test_a_fetch_that_ends_after_its_runtime_is_closed_changes_nothing(fireworks: ScriptedUpstream) -> None:
    gate = Gate()
    fireworks.on_path(FIREWORKS_LIST, [wait_for(gate), *list_answer(fireworks_rows(*GOOD))])
    models.refresh_if_due()
    fetch = _catalog().fetch_under_way
    assert fetch is not None
    use_settings(load_settings({}))

    gate.open()
    fetch.done.wait(20)

    assert models._fireworks_models_cache["data"] is None
    assert _catalog().cache["data"] is None


def test_a_delayed_refresh_ends_with_its_runtime(fireworks: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _names() == GOOD
    monkeypatch.setattr(random, "uniform", lambda least, most: 3600.0)
    _expire()
    models.refresh_if_due()
    fetch = _catalog().fetch_under_way
    assert fetch is not None

    use_settings(load_settings({}))

    assert fetch.done.wait(20)
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 1


def test_a_new_runtime_starts_without_the_lists_of_the_old_one(fireworks: ScriptedUpstream) -> None:
    assert _names() == GOOD

    use_settings(load_settings(provider_environment(root_of(fireworks), ["fireworks"])))

    assert models._fireworks_models_cache["data"] is None
    assert _names() == GOOD
    assert len(seen_at(fireworks, FIREWORKS_LIST)) == 2
    assert models._fireworks_models_cache["data"] is models.get_model_list(FIREWORKS)
