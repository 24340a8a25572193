"""Migrations: the database's revision, upgrades and downgrades. app/revisions.py knows the revisions of this code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from app.database_session import VANISHED_HOST, VANISHED_SERVER
from app.db.errors import describe_outage, describe_refusal
from app.revisions import MIGRATIONS, get_head
from app.runtime import get_settings

if TYPE_CHECKING:
    from alembic.config import Config

# Migrations and app/db/partitions.py create partitions; SQLAlchemy's metadata does not have them.
PARTITION_NAME = (
    r"(activity_p\d{8}|(usage_rollup|model_rollup|key_seen|latency_rollup|"
    r"outcome_usage|model_usage|latency_usage|key_presence)_(minute|hour|day))"
)


# A command may wait slightly longer for a connection than a request.
_CONNECT_ARGS = VANISHED_SERVER | {"connect_timeout": 5}


class SchemaState(NamedTuple):
    """The revision of a database compared with this code's.

    Attributes:
        state: "missing" (never migrated), "behind", "current", or "ahead". This code also runs with a schema that is
            ahead, because every migration must work with the code before it.
        current: the revision of the database; None when missing.
        head: the newest revision that this code knows.
    """

    state: Literal["missing", "behind", "current", "ahead"]
    current: str | None
    head: str


class SchemaError(Exception):
    """The database could not be reached, migrated or compared; the message says why."""


def select_schema_state(connection: Connection) -> SchemaState:
    """Returns the revision of the database compared with the newest one of this code."""
    head = get_head()
    current = _select_revision(connection)
    if current is None:
        return SchemaState("missing", None, head)
    if current == head:
        return SchemaState("current", current, head)
    return SchemaState("behind" if current < head else "ahead", current, head)


def select_schema_state_of(database_url: str) -> SchemaState:
    """Like `select_schema_state`, over a new connection.

    Raises:
        SchemaError: the database is unavailable.
    """
    with _schema_errors(database_url), _connection(database_url) as connection:
        return select_schema_state(connection)


def upgrade_schema(database_url: str, revision: str = "head") -> None:
    """Migrates the database up to `revision`. A concurrent call waits and then finds nothing to do.

    Raises:
        SchemaError: the database is unavailable, or a lock was held for too long. Every migration is a transaction, so
            calling again is safe.
    """
    from alembic import command

    with _schema_errors(database_url):
        command.upgrade(_config(database_url), revision)


def downgrade_schema(database_url: str, revision: str) -> None:
    """Reverts migrations down to `revision` ("base" for all); the data in their tables is lost.

    Raises:
        SchemaError: as `upgrade_schema`.
    """
    from alembic import command

    with _schema_errors(database_url):
        command.downgrade(_config(database_url), revision)


def list_downgrade(database_url: str, revision: str) -> list[str]:
    """Returns the migrations that `downgrade_schema` would undo, the newest first; changes nothing.

    Raises:
        SchemaError: as `upgrade_schema`; or this code lacks `revision` or a migration that the database has.
    """
    from alembic.script import ScriptDirectory
    from alembic.script.revision import RevisionError

    with _schema_errors(database_url):
        with _connection(database_url) as connection:
            current = _select_revision(connection)
        if current is None:
            return []
        script = ScriptDirectory.from_config(_config(database_url))
        try:
            return [found.revision for found in script.iterate_revisions(current, revision)]
        except RevisionError as error:
            raise SchemaError(str(error)) from error


def compare_schema(database_url: str) -> list[Any]:
    """Returns Alembic's list of differences between app/db/tables.py and the database; [] if they agree.

    Alembic compares tables, columns, types, unique constraints and indexes, but neither CHECK constraints nor triggers
    and functions.

    Raises:
        SchemaError: the database is unavailable.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from app.db import bill_tables, catalog_tables, kept_answers, limit_tables, rollup_tables, sessions

    # The import of their modules registers all tables in one metadata.
    metadata = limit_tables.metadata
    others = rollup_tables, sessions, catalog_tables, kept_answers, bill_tables
    assert all(module.metadata is metadata for module in others)

    options = {"include_name": _is_compared, "compare_type": True, "compare_server_default": True}
    with _schema_errors(database_url), _connection(database_url) as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def _select_revision(connection: Connection) -> str | None:
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
        return None
    revision = connection.execute(text("SELECT max(version_num) FROM alembic_version")).scalar()
    return None if revision is None else str(revision)


@contextmanager
def _connection(database_url: str) -> Iterator[Connection]:
    # A command uses one connection and ends; a pool would only keep it open.
    engine = create_engine(database_url, poolclass=NullPool, connect_args=_CONNECT_ARGS)
    with engine.connect() as connection:
        yield connection


@contextmanager
def _schema_errors(database_url: str) -> Iterator[None]:
    from alembic.util import CommandError

    try:
        yield
    except DBAPIError as error:
        if error.statement is None:  # There was no connection.
            is_direct = database_url == get_settings().database_direct_url
            setting = "DATABASE_DIRECT_URL" if is_direct else "DATABASE_URL"
            reason = describe_refusal(error, setting) or describe_outage(error, setting)
            raise SchemaError(reason[0].upper() + reason[1:]) from error
        raise SchemaError(f"PostgreSQL reported: {str(error.orig).strip()}") from error
    except CommandError as error:
        raise SchemaError(str(error)) from error


def _config(database_url: str) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    # Alembic would otherwise split the path at spaces and colons.
    config.set_main_option("path_separator", "newline")
    config.attributes["url"] = database_url
    config.attributes["connect_args"] = _CONNECT_ARGS
    config.attributes["session"] = VANISHED_HOST
    return config


def _is_compared(name: str | None, kind: str, parents: Any) -> bool:
    return not (kind == "table" and name is not None and re.fullmatch(PARTITION_NAME, name))
