"""A worker that starts without the database uses the file of its host's keys, unless there is any doubt about it."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.config import load_settings
from app.db import get_engine, identify_database
from app.errors import Unavailable
from app.runtime import get_component, use_settings
from app.services.keys import Key, authenticate, digest_of, new_key
from app.services.keys import snapshot as snapshots
from app.services.keys.live_keys import make_live_keys
from app.services.keys.snapshot import GRACE_S, KeySnapshot
from app.services.keys.snapshot_file import NAME, KeyFile
from app.services.limits import Budget, Subject
from app.snapshot_file import HEADER_BYTES
from tests.support.key_file import change_header, confirm_earlier, read_header
from tests.support.keys import create_key, revoke_key

AWAY = "postgresql://user:first@/nothing?host=/nowhere&sslpassword=one"
SAME_WITHOUT_PASSWORDS = "postgresql://user:second@/nothing?host=/nowhere"
KEY = new_key()
KEYS = {digest_of(KEY): Key("id", "laptop \N{SNOWMAN}", None, "h1")}
BUDGET = Budget(7, "usd", "0.5", "month", "Europe/Berlin", 1, (80, 95))
HOLDER = Subject("h1", "holder", "alice", "g1", ("*/llama-*",), 60, None, 8, None, (BUDGET,))
GROUP = Subject("g1", "group", "research", None, (), None, 100_000, None, 4096, ())
CONTENT = make_live_keys(KEYS, {subject.id: subject for subject in (HOLDER, GROUP)})
NOTHING = make_live_keys({}, {})


@pytest.fixture(autouse=True)
def _reset_settings() -> Iterator[None]:
    yield
    use_settings(None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The key file of a host whose database is away, which a worker wrote two seconds ago."""
    saved = KeyFile(tmp_path, identify_database(load_settings({"DATABASE_URL": AWAY}).database_url or ""))
    assert saved.save("1:1", CONTENT, time.time() - 2)
    return saved.path


def start_worker(directory: Path, url: str = AWAY) -> KeySnapshot:
    """Returns the snapshot of a new worker that has queried the database once."""
    use_settings(load_settings({"DATABASE_URL": url, "JOURNAL_DIR": str(directory)}))
    snapshot = get_component(KeySnapshot)
    snapshot.refresh()
    return snapshot


def test_the_file_has_digests_and_is_for_its_owner_alone(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600 and KEY.encode() not in file.read_bytes()
    assert [path.name for path in file.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("url", [AWAY, SAME_WITHOUT_PASSWORDS])
def test_a_worker_that_starts_without_the_database_uses_it_until_the_grace_time_ends(
    file: Path, url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = start_worker(file.parent, url)
    assert authenticate(f"Bearer {KEY}") == KEYS[digest_of(KEY)]
    assert snapshot.policies == CONTENT.policies and snapshot.policies["h1"].subjects == (HOLDER, GROUP)
    state = snapshot.get_state()
    assert (state.known, state.source, state.usable, state.database_up) == (1, "file", True, False)
    snapshot.refresh()  # Does not load the file again.
    logged = capfd.readouterr().err
    assert (logged.count("key_file_loaded"), logged.count("key_refresh_failed")) == (1, 1)
    monkeypatch.setattr(snapshots, "GRACE_S", 1.0)
    with pytest.raises(Unavailable):
        authenticate(f"Bearer {KEY}")
    assert not snapshot.get_state().usable


def cut(file: Path, size: int) -> None:
    """Shortens or extends the file."""
    os.truncate(file, size)


def replace(file: Path, make: Callable[[Path], object]) -> None:
    """Replaces the file with something else."""
    file.rename(file.with_name("moved"))
    make(file)


DOUBTS: dict[str, Callable[[Path], object]] = {
    "No such file": lambda file: file.unlink(),
    "mode 640": lambda file: file.chmod(0o640),
    "links": lambda file: replace(file, lambda place: place.symlink_to("moved")),
    "not a regular file": lambda file: replace(file, os.mkfifo),
    "cannot be read|not a regular": lambda file: replace(file, os.mkdir),
    "header is damaged": lambda file: cut(file, 0),
    "header is damaged ": lambda file: file.write_bytes(b"\0" * 5000),
    "header is damaged  ": lambda file: file.write_bytes(b"\xff\xfe" * 500),
    "content is damaged": lambda file: cut(file, HEADER_BYTES),
    "content is damaged ": lambda file: cut(file, HEADER_BYTES + 40),
    "content is damaged  ": lambda file: file.write_bytes(file.read_bytes().replace(b'["id","', b'[1,"')),
    "bytes, more than": lambda file: cut(file, 200_000_000),
    "format 1": lambda file: change_header(file, version=1),
    "another DATABASE_URL": lambda file: change_header(file, database=identify_database("postgresql://other")),
    "is too long": lambda file: confirm_earlier(file, GRACE_S),
    "in the future": lambda file: confirm_earlier(file, -60),
}


@pytest.mark.parametrize("reason", DOUBTS)
def test_a_file_that_is_in_doubt_is_not_used_and_the_log_says_why(
    file: Path, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    DOUBTS[reason](file)
    snapshot = start_worker(file.parent)
    state = snapshot.get_state()
    assert (state.known, state.source, state.usable) == (0, None, False)
    assert any(part in (state.file_error or "") for part in reason.strip().split("|")), state.file_error
    snapshot.refresh()
    assert capfd.readouterr().err.count("key_file_refused") == 1
    with pytest.raises(Unavailable):
        authenticate(f"Bearer {KEY}")


def test_a_file_of_another_user_is_not_used(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file to another user")
    os.chown(file, 12345, -1)
    assert "uid 12345" in (start_worker(file.parent).get_state().file_error or "")


def test_a_worker_without_the_database_takes_what_another_worker_of_the_host_gets(file: Path) -> None:
    snapshot = start_worker(file.parent)
    later = {digest_of(new_key()): Key("new", "phone")}
    other = KeyFile(file.parent, read_header(file)["database"])
    assert other.save("1:2", make_live_keys(later, {}), time.time())
    snapshot.refresh()
    assert snapshot.get(next(iter(later))) == Key("new", "phone") and snapshot.get(digest_of(KEY)) is None
    assert snapshot.policies == {}


def test_the_first_answer_of_the_database_replaces_what_the_file_has(database_url: str, tmp_path: Path) -> None:
    use_settings(load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)}))
    key, row = create_key("laptop")
    snapshot = get_component(KeySnapshot)
    snapshot.refresh()
    file = tmp_path / NAME
    assert read_header(file)["confirmed_at"] == pytest.approx(time.time(), abs=5)
    before, inode = file.read_bytes(), file.stat().st_ino

    confirm_earlier(file, 100)
    start_worker(tmp_path, database_url)
    assert (file.read_bytes()[HEADER_BYTES:], file.stat().st_ino) == (before[HEADER_BYTES:], inode), "written again"
    assert read_header(file)["confirmed_at"] > time.time() - 50

    # A power cut may leave a good header with other content.
    for content in (b"", b"\0" * 100, before[HEADER_BYTES:].replace(b"laptop", b"potlap")):
        file.write_bytes(before[:HEADER_BYTES] + content)
        start_worker(tmp_path, database_url)
        assert file.read_bytes()[HEADER_BYTES:] == before[HEADER_BYTES:]

    revoke_key(row.id)
    snapshot = start_worker(tmp_path, database_url)
    assert snapshot.get(digest_of(key)) is None and digest_of(key) not in _read_keys(file)


def _read_keys(file: Path) -> dict[bytes, Key]:
    saved = KeyFile(file.parent, read_header(file)["database"]).read(after=0, longest_age_s=GRACE_S)
    assert saved is not None
    return saved.content.keys


def test_what_came_from_the_file_is_replaced_although_the_database_has_not_changed(
    database_url: str, tmp_path: Path
) -> None:
    snapshot = start_worker(tmp_path, database_url)
    key, _ = create_key("laptop")
    snapshot.refresh()
    _execute("ALTER TABLE api_key RENAME TO moved")
    other = KeyFile(tmp_path, read_header(tmp_path / NAME)["database"])
    assert other.save("0:0", NOTHING, time.time() + 2)
    snapshot.refresh()
    assert (snapshot.get_state().known, snapshot.get_state().source) == (0, "file")
    _execute("ALTER TABLE moved RENAME TO api_key")
    snapshot.refresh()
    assert snapshot.get(digest_of(key)) is not None and snapshot.get_state().source == "database"


def _execute(statement: str) -> None:
    with get_engine().begin() as connection:
        connection.execute(text(statement))


def test_an_older_answer_does_not_replace_a_newer_one(file: Path) -> None:
    slow = KeyFile(file.parent, read_header(file)["database"])
    assert slow.save("0:0", NOTHING, time.time() - 30)
    assert _read_keys(file) == KEYS


def test_two_workers_do_not_write_at_once_and_what_a_killed_one_left_is_written_over(file: Path) -> None:
    left = file.with_name(f"{NAME}.new")
    left.write_bytes(b"half" * 1000)
    worker = KeyFile(file.parent, read_header(file)["database"])
    with left.open() as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        assert not worker.save("0:0", NOTHING, time.time())
    assert _read_keys(file) == KEYS
    assert worker.save("0:0", NOTHING, time.time())
    assert _read_keys(file) == {} and not left.exists()


def test_without_a_disk_the_keys_are_kept_in_memory(
    database_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file where the directory should be")
    snapshot = start_worker(tmp_path / "taken" / "journal", database_url)
    key, _ = create_key("laptop")
    for _ in range(3):
        snapshot.refresh()
    assert snapshot.get(digest_of(key)) is not None and snapshot.get_state().database_up
    assert capfd.readouterr().err.count("key_file_write_failed") == 1


def test_a_full_disk_leaves_the_earlier_file(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    worker = KeyFile(file.parent, read_header(file)["database"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER_BYTES + 10, before[1]))
    try:
        worker.save("0:0", NOTHING, time.time())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "key_file_write_failed" in capfd.readouterr().err
    assert _read_keys(file) == KEYS and [path.name for path in file.parent.iterdir()] == [NAME]
    assert worker.save("0:0", NOTHING, time.time())
    assert _read_keys(file) == {}
