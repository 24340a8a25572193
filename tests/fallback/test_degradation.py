"""In a simulated hour, requests move away from a provider that degrades and return to it, and callers hardly notice."""

from __future__ import annotations

from benchmarks.degradation import summarize
from benchmarks.simulated_hour import BEGIN_S, END_S, HOUR_S, Hour

# The bounds are wide, because only the fate of most requests matters.
_PER_SECOND = 0.5
# Four hours of the slow provider take as long to simulate as all others; few requests suffice to show the trend.
_FEW_PER_SECOND = 0.25


def test_all_requests_leave_a_provider_that_fails_and_return_to_it() -> None:
    results = Hour("price", "all fail", per_second=_PER_SECOND).run()
    before, later = summarize(results, 0, BEGIN_S), summarize(results, BEGIN_S + 60, END_S)
    after = summarize(results, END_S + 300, HOUR_S)
    assert before.moved < 0.05 and before.wasted < 5
    assert later.moved == 1.0 and later.errors < 0.01
    # Occasional tries find out whether it serves again.
    assert 0.5 < later.wasted < 15 and later.cost < 1.4 and later.waited_s < 1
    assert after.moved < 0.1 and after.errors < 0.01


def test_callers_do_not_notice_a_provider_that_fails_now_and_then() -> None:
    results = Hour("price", "30 % fail", per_second=_PER_SECOND).run()
    during = summarize(results, BEGIN_S, END_S)
    assert during.errors < 0.01 and 0.6 < during.moved <= 1
    assert during.wasted < 15 and during.waited_s < 1 and during.cost < 1.4
    assert summarize(results, END_S + 300, HOUR_S).moved < 0.1


def test_requests_leave_a_slow_provider_if_they_are_sorted_by_speed_or_lose_patience() -> None:
    by_price = summarize(Hour("price", "slow", per_second=_FEW_PER_SECOND).run(), BEGIN_S, END_S)
    assert by_price.moved < 0.05 and by_price.waited_s > 1.5
    impatient = summarize(Hour("price", "slow", per_second=_FEW_PER_SECOND, FALLBACK_AFTER="1").run(), BEGIN_S, END_S)
    assert impatient.moved > 0.9 and impatient.waited_s < 1 and impatient.errors < 0.01 and impatient.wasted < 30
    by_throughput = summarize(Hour("throughput", "slow", per_second=_FEW_PER_SECOND).run(), BEGIN_S, END_S)
    assert by_throughput.moved > 0.5 and by_throughput.wasted < 5
    # The median over half an hour reacts after a quarter of an hour.
    by_latency = Hour("latency", "slow", per_second=_FEW_PER_SECOND).run()
    assert summarize(by_latency, END_S - 120, END_S).moved > 0.5
