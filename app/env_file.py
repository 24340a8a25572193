"""The files `.env` and `.env.local`: names and texts of settings, not yet checked."""

from __future__ import annotations

import io
import os
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from app.setting_values import ROOT, SettingsError


def read_env_file(path: Path) -> dict[str, str | None]:
    """Returns name → text from a dotenv file, {} if there is none.

    Raises:
        SettingsError: it cannot be read, is not UTF-8, or has a line that is not a setting.
    """
    try:
        text = path.read_text("utf-8-sig")  # Some editors on Windows begin a file with a byte-order mark.
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}); make it a file that this user may read."
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    # UTF-16 text with only ASCII characters is valid UTF-8: each second byte is 0.
    if "\0" in text:
        raise SettingsError(f"{path} is not in UTF-8; save it again with the encoding UTF-8 (not UTF-16 or Unicode).")
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            said = binding.original
            line = said.line + len(said.string) - len(said.string.lstrip("\n"))
            raise SettingsError(f"{path} has a line {line} that is not NAME=value; correct it, and close quotes in it.")
    return dotenv_values(stream=io.StringIO(text))


def forget_dotenv(root: Path = ROOT) -> None:
    """Removes variables that a command of `flask` took from `.env`, because they would precede `.env.local`.

    If the kernel does not tell the process's initial variables, one that equals `.env` counts as taken from it.
    """
    try:
        given = {pair.partition(b"=")[0] for pair in Path("/proc/self/environ").read_bytes().split(b"\0")}
    except OSError:
        given = set()
    for name, value in read_env_file(root / ".env").items():
        if os.environ.get(name) == value and name.encode() not in given:
            del os.environ[name]
