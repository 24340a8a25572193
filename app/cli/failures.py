"""How a command fails: with a sentence and exit code 1, because an operator has no use for a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.config import SettingsError
from app.db.errors import DatabaseError, describe_error
from app.db.schema import SchemaError
from app.logs import redact


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns a missing setting, an absent database or a wrong schema into one sentence.

    Raises:
        click.ClickException: what was raised inside, in words.
    """
    try:
        yield
    except (SchemaError, SettingsError) as error:
        raise click.ClickException(redact(str(error))) from error
    except DatabaseError as error:
        raise click.ClickException(f"The database did not do it: {redact(describe_error(error))}") from error
