"""Generated requests get answers as in the OpenAPI document: no error 5xx, and no answer of another form."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.catalogs import provider_environment
from tests.support.gateway import Gateway, clean_environment
from tests.support.gateways import Gateways
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.soak import FULL

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed; `make check` does it"
    ),
    # Takes half a minute even with few examples, because there are so many operations; `make test` has tests/openapi.
    pytest.mark.skipif(not FULL, reason="only `make soak` sends generated requests"),
]

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)


@pytest.fixture(scope="module")
def gateway(gateways: Gateways, postgres: Postgres, migrated_template: str, sandbox: Sandbox) -> Iterator[Gateway]:
    """A gateway on a database of its own, in which generated requests make keys, groups and limits."""
    url = postgres.create_database(template=migrated_template)
    # Otherwise the limit on refusals would answer the generated mistakes.
    settings = provider_environment(sandbox.url, key="sandbox") | {"MAX_REFUSALS_PER_SECOND": "100000"}
    with gateways.running(url, settings) as running:
        workers = running.worker_pids()
        yield running
        assert running.worker_pids() == workers, "a worker died"
        assert "Traceback" not in running.log()
    gateways.after_stops(lambda: postgres.drop_database(url))


def run(gateway: Gateway, place: Path, *options: str) -> None:
    """Runs schemathesis against a gateway.

    Raises:
        AssertionError: it found something; the message is its report, with a curl command for each finding.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.url}/openapi.json"),
            *(
                "--checks",
                ",".join(CHECKS),
                "--phases",
                "examples,coverage,fuzzing",
                "--max-examples",
                "15",
                "--workers",
                "2",
            ),
            *("--header", f"Authorization: Bearer {gateway.key}", "--output-sanitize", "false", "--no-shrink"),
            *("--continue-on-failure", "--warnings", "off", "--suppress-health-check", "all"),
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=place,
        env=clean_environment(),
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_generated_request_gets_what_the_document_does_not_say(gateway: Gateway, tmp_path: Path) -> None:
    # The operation that changes the limits of the whole gateway comes last, because they could refuse further requests.
    run(gateway, tmp_path, "--exclude-operation-id", "change_limits")
    run(gateway, tmp_path, "--include-operation-id", "change_limits")
