"""The size of long tests: full counts under `make soak`; about a tenth, or a fifth of examples, under `make test`."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

# UPDATE_FAULTS counts too, because the page must be written from the results of a full run.
FULL = bool(os.environ.get("SOAK") or os.environ.get("UPDATE_FAULTS"))


def soak_count(full: int) -> int:
    """Returns `full` under `make soak`, and a tenth of it, at least 1, otherwise."""
    return full if FULL else max(1, full // 10)


def examples(full: int) -> int:
    """Returns the number of examples for a property: `full` under `make soak`, and a fifth of it otherwise."""
    return full if FULL else max(1, full // 5)


def soak_only(short_form: str) -> pytest.MarkDecorator:
    """Returns the mark of a test that only `make soak` runs; tests/conftest.py skips it otherwise.

    Args:
        short_form: the test of the same behaviour in `make test`, such as `test_dev.py::test_a_signal_while_starting`.
            tests/support/test_soak.py checks that there is such a test.
    """
    return pytest.mark.soak_only(short_form)


def skip_soak_only(items: Iterable[pytest.Item]) -> None:
    """Skips the tests that only `make soak` runs, unless it is running; the reason names the short form."""
    if FULL:
        return
    for item in items:
        if mark := item.get_closest_marker("soak_only"):
            reason = f"only `make soak` runs it; `make test` has {mark.args[0]}"
            item.add_marker(pytest.mark.skip(reason=reason))
