"""The headers that say how much of a rate is left: cached for many responses, and never far from the truth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.limit_errors import LimitReached
from app.services.limits import Policy, Reservation, Subject, reservation
from app.services.limits.acquisition import take_at_once
from app.services.limits.binding import Binding
from app.services.limits.permits import RatePot
from tests.services.limits.conftest import MakeLimits
from tests.services.limits.test_limits import ceiling, end, policy, reserve, subject

SUBJECT = Subject("holder", "holder", "alice", None, (), 3_000, None, None, None, ())
# How long headers are kept while much is left; docs and clients may rely on it.
KEPT_S = 0.25


class Clock:
    """A clock that moves only when it is set."""

    now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.1, 0.249, 0.25, 0.3, 2.0]),
        st.one_of(
            st.tuples(st.just("draw"), st.integers(0, 3_500)),
            st.tuples(st.just("take"), st.integers(1, 2_500)),
            st.tuples(st.just("respond"), st.just(0)),
        ),
    ),
    max_size=40,
)


@given(STEPS)
def test_headers_claim_no_more_than_was_left_a_quarter_of_a_second_ago(
    steps: list[tuple[float, tuple[str, int]]],
) -> None:
    clock, pot = Clock(), RatePot(SUBJECT, "requests", 3_000)
    nobody: Any = None  # Nothing has to wait, so no component is needed.
    held = Reservation(nobody, Binding(Policy((SUBJECT,), (), None), [], [], [pot]), [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reservation, "time", clock)
        # (time, permits left from then on).
        history = [(clock.now_s, pot.count_left())]
        for pause_s, (step, count) in steps:
            clock.now_s += pause_s
            if step == "draw":  # Other workers may have returned permits, or taken nearly all.
                pot.room = 3_500 - count
                pot.add(1, min(count, 500), clock.now_s)
            elif step == "take":
                take_at_once([pot.share], (0, 0, min(count, pot.count_left()), 0, 0), clock.now_s, {pot})
            history.append((clock.now_s, pot.count_left()))
            claimed = int(held.get_headers()["x-ratelimit-remaining-requests"])
            recent = [left for at_s, left in history if at_s >= clock.now_s - KEPT_S]
            before = [left for at_s, left in history if at_s < clock.now_s - KEPT_S]
            assert claimed <= max(recent + before[-1:])
            if claimed < 1_000:
                assert claimed == pot.count_left()


def test_after_a_refusal_headers_are_made_anew(make_limits: MakeLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservation, "_HEADERS_S", 600.0)
    limited = policy(subject(tokens_per_minute=10_000))
    limits, others = make_limits(), make_limits()
    first = reserve(limits, limited, ceiling(rate_tokens=10))
    assert _get_left(first) == 9_990
    held = reserve(others, limited, ceiling(rate_tokens=9_900))
    assert _get_left(first) == 9_990, "the headers of before are kept"
    with pytest.raises(LimitReached) as refused:
        reserve(limits, limited, ceiling(rate_tokens=500))
    assert _get_left(first) == int(refused.value.headers()["x-ratelimit-remaining-tokens"]) == 90
    for each in (first, held):
        end(each)


def test_permits_are_drawn_again_shortly_before_their_time_is_over_if_much_is_left() -> None:
    marked: list[Any] = []
    pot = RatePot(SUBJECT, "requests", 3_000, marked.append)

    def take(now_s: float) -> bool:
        return take_at_once([pot.share], (0, 0, 1, 0, 0), now_s) is not None

    pot.add(1, 100, 10.0)
    assert take(10.3) and not marked
    assert take(10.4) and take(10.45) and marked == [pot] and pot.is_due
    # The next permits have come. The remaining ones go back to the half second of their grant.
    pot.add(2, 50, 10.46)
    assert take(10.6) and marked == [pot] and not pot.is_due
    assert pot.take_return(10.6) == ({1: 97}, 0)
    # No permit is used later than half a second after its draw, even if another draw is due.
    assert take(10.9) and marked == [pot, pot]
    assert not take(10.961) and pot.take_return(10.961) == ({2: 48}, 0)
    # If little is left, permits are drawn only for waiting requests.
    pot.room = 100
    pot.add(3, 50, 20.0)
    assert take(20.4) and not take(20.5) and marked == [pot, pot]


def _get_left(held: Any) -> int:
    return int(held.get_headers()["x-ratelimit-remaining-tokens"])
