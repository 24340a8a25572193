"""The drain: begun once, and over when its time is."""

from __future__ import annotations

import time

import pytest

from app import shutdown as drain
from app.errors import GatewayShutdown


@pytest.fixture(autouse=True)
def _not_draining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_deadline_s", None)


def test_a_process_that_does_not_stop_does_not_drain() -> None:
    drain.check()
    assert not drain.is_draining()


def test_running_answers_may_go_on_until_the_time_is_over() -> None:
    drain.begin(0.05)
    assert drain.is_draining()
    drain.check()
    time.sleep(0.06)
    with pytest.raises(GatewayShutdown) as caught:
        drain.check()
    error = caught.value
    assert (error.status, error.type, error.outcome) == (503, "gateway_shutdown", "gateway_shutdown")
    assert error.headers() == {"retry-after": "1"}


def test_beginning_again_does_not_give_more_time() -> None:
    drain.begin(0.0)
    drain.begin(60.0)
    with pytest.raises(GatewayShutdown):
        drain.check()
