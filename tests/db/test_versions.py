"""The schema and the records on other versions of PostgreSQL that are installed; other tests use that of the wheel.

15 is the oldest version that the documentation names, and the version of Debian 12.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from app.db.schema import compare_schema, downgrade_schema, upgrade_schema
from app.dev import postgres as embedded
from app.doctor.database_checks import LEAST_VERSION
from tests.support.activity_tables import ActivityTables, adopt_all, wait_until_shipped
from tests.support.postgres import running_postgres
from tests.support.recording_process import RecordingProcess
from tests.support.soak import FULL
from tests.support.tree import ROOT

# Version → the directory of its programs in Debian's packages.
INSTALLED = {
    int(path.parent.parent.name): path.parent for path in Path("/usr/lib/postgresql").glob("[0-9]*/bin/initdb")
}
LEAST = LEAST_VERSION // 10_000


def test_the_pages_name_the_least_version_and_that_of_the_wheel() -> None:
    page = (ROOT / "docs/deploy.md").read_text()
    assert [int(version) for version in re.findall(r"PostgreSQL (\d+) or later", page)] == [LEAST]
    program = embedded.find_binaries() / "postgres"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    wheel = re.findall(r"brings PostgreSQL (\d+) in a wheel", page)
    assert wheel == re.findall(r"PostgreSQL\) (\d+)", said) and f"tested with {LEAST} and {wheel[0]}" in page


@pytest.mark.soak
@pytest.mark.skipif(not FULL, reason="it makes another database server; `make soak` runs it")
@pytest.mark.parametrize("version", sorted(INSTALLED) or [LEAST])
def test_everything_works_on_another_version(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if version not in INSTALLED:
        pytest.skip("no other PostgreSQL is installed; on Debian and Ubuntu: apt-get install postgresql")
    assert version >= LEAST
    monkeypatch.setattr(embedded, "find_binaries", lambda: INSTALLED[version])
    with running_postgres() as server:
        assert server.execute("SHOW server_version")[0][0].startswith(f"{version}.")
        server.execute("CREATE DATABASE gateway")
        url = server.database_url("gateway")
        upgrade_schema(url)
        assert compare_schema(url) == []
        with RecordingProcess(tmp_path, url) as process:
            process.ask("record", 300)
            wait_until_shipped(process)
            process.ask("hold", 3)
            process.kill()
        adopt_all(tmp_path, url)
        tables = ActivityTables(url)
        assert len(tables.outcomes()) == 303 and tables.check_balance()["started"] == 303
        downgrade_schema(url, "0006")
        upgrade_schema(url)
        assert compare_schema(url) == [] and tables.check_balance()["started"] == 303
