"""The drain starts once and ends when its time is over."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from app.config import load_settings
from app.errors import GatewayShutdown
from app.runtime import use_settings
from app.shutdown import is_draining, raise_if_drained, start_drain


@pytest.fixture(autouse=True)
def _a_runtime_of_its_own() -> Iterator[None]:
    use_settings(load_settings({}))
    yield
    use_settings(None)


def test_a_process_that_does_not_stop_does_not_drain() -> None:
    raise_if_drained()
    assert not is_draining()


def test_running_answers_may_go_on_until_the_time_is_over() -> None:
    start_drain(0.05)
    assert is_draining()
    raise_if_drained()
    time.sleep(0.06)
    with pytest.raises(GatewayShutdown) as caught:
        raise_if_drained()
    error = caught.value
    assert (error.status, error.type, error.outcome) == (503, "gateway_shutdown", "gateway_shutdown")
    assert error.headers() == {"retry-after": "1"}


def test_beginning_again_does_not_give_more_time() -> None:
    start_drain(0.0)
    start_drain(60.0)
    with pytest.raises(GatewayShutdown):
        raise_if_drained()
