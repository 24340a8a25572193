"""Properties of the faults of a provider over every translated API; docs/faults.md has the rest."""

from __future__ import annotations

import pytest

from tests.faults.table import failed_attempts
from tests.faults.translated import APIS, FAULTS, Api, Translated, get_error, get_events

NAMES = [fault.name for fault in FAULTS]
each_api = pytest.mark.parametrize("api", APIS, ids=[api.sdk for api in APIS])


@each_api
@pytest.mark.parametrize("name", NAMES)
def test_no_client_takes_a_broken_answer_for_a_complete_one(
    translated: dict[str, dict[str, Translated]], api: Api, name: str
) -> None:
    seen = translated[api.sdk][name]
    is_fine = seen.fault.outcome == "ok"
    for met in seen.met.values():
        assert (met.status == 200 and met.ended == "complete") is is_fine
        assert bool(get_error(met)) is not is_fine
        assert bool(api.ends & set(get_events(met))) is is_fine
    assert (seen.sdk == "completes") is is_fine and seen.sdk.startswith(("completes", "raises"))


@each_api
@pytest.mark.parametrize("name", NAMES)
def test_the_row_says_the_same_as_for_chat(translated: dict[str, dict[str, Translated]], api: Api, name: str) -> None:
    fault = translated[api.sdk][name].fault
    for row in translated[api.sdk][name].rows.values():
        seen = (row["outcome"], row["error_code"], row["usage_source"], failed_attempts(row), row["endpoint"])
        assert seen == (fault.outcome, fault.code, fault.usage, fault.failed, api.path)


def test_a_failure_shows_no_part_of_a_tool_call(translated: dict[str, dict[str, Translated]]) -> None:
    for met in translated["anthropic"]["closes in the arguments of a tool call"].met.values():
        names = get_events(met)
        assert names.count("content_block_start") == 1 and names.count("content_block_stop") == 0
        assert names[-1] == "error"


def test_a_failure_leaves_an_open_call_open(translated: dict[str, dict[str, Translated]]) -> None:
    for met in translated["openai"]["closes in the arguments of a tool call"].met.values():
        names = get_events(met)
        added, done = names.count("response.output_item.added"), names.count("response.output_item.done")
        assert (added, done) == (2, 1) and "response.function_call_arguments.done" not in names
        assert names[-1] == "response.failed"


def test_a_silent_provider_leaves_the_client_with_pings(translated: dict[str, dict[str, Translated]]) -> None:
    for met in translated["anthropic"]["falls silent after the third event"].met.values():
        assert met.body.count(b"event: ping\n") >= 2
    for met in translated["openai"]["falls silent after the third event"].met.values():
        assert met.heartbeats >= 2
