"""Properties of every fault of a provider at any door and with any client; docs/faults.md has the rest."""

from __future__ import annotations

import pytest

from tests.faults.cases import SECTIONS
from tests.faults.observe import Observation
from tests.faults.table import SLACK_S, failed_attempts, least_s

NAMES = [fault.name for section in SECTIONS.values() for fault in section]


@pytest.mark.parametrize("name", NAMES)
def test_the_row_says_what_happened(observations: dict[str, Observation], name: str) -> None:
    fault = observations[name].fault
    for row in observations[name].rows.values():
        seen = (row["outcome"], row["error_code"], row["usage_source"], failed_attempts(row))
        assert seen == (fault.outcome, fault.code, fault.usage, fault.failed)


@pytest.mark.parametrize("name", NAMES)
def test_no_client_takes_a_broken_answer_for_a_complete_one(observations: dict[str, Observation], name: str) -> None:
    seen = observations[name]
    is_fine = seen.fault.outcome == "ok"
    for met in seen.met.values():
        failed = met.status != 200 or (met.ended != "complete" and bool(met.error))
        assert failed is not is_fine
        assert (b"[DONE]" in met.body) is (is_fine and seen.fault.is_stream)
    assert {words == "completes" for words in seen.sdk.values()} <= {is_fine}
    assert {words == "0" for words in seen.curl.values()} <= {is_fine}


@pytest.mark.parametrize("name", NAMES)
def test_an_error_has_the_one_shape_and_its_code(observations: dict[str, Observation], name: str) -> None:
    fault = observations[name].fault
    for met in observations[name].met.values():
        if fault.outcome != "ok" and fault.name != "sends an error event":
            assert met.error.keys() == {"message", "type", "param", "code"}
            assert met.error["code"] == fault.code


@pytest.mark.parametrize("name", NAMES)
def test_a_request_is_over_when_its_limit_says_so(observations: dict[str, Observation], name: str) -> None:
    limit = observations[name].fault.limit
    for met in observations[name].met.values():
        assert least_s(limit) <= met.took_s
        assert limit == "its own pace" or met.took_s < least_s(limit) + SLACK_S


def test_a_silent_provider_leaves_the_client_with_heartbeats(observations: dict[str, Observation]) -> None:
    for met in observations["falls silent after the third event"].met.values():
        assert met.heartbeats >= 2
