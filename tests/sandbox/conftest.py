"""The sandbox shared by the tests of this directory."""

from collections.abc import Iterator

import pytest

from tests.sandbox.client import Server, run_sandbox

# A small list and short pauses make the tests fast; the shapes of responses depend on neither.
FEATHERLESS_MODELS = 2500


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A sandbox with 0.2 ms between events and 2,500 Featherless models."""
    with run_sandbox("--pace-ms", "0.2", "--featherless-models", str(FEATHERLESS_MODELS)) as server:
        yield server
