"""Runs code without root's right to read and write everything, so that tests as root behave as for an operator."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

# prctl(2) and capabilities(7): the rights to bypass file permissions, and to bypass only read permissions.
_PR_CAPBSET_DROP = 24
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_NOBODY = 65534


def run_to_end(
    command: Sequence[str], root: Path, environment: Mapping[str, str], *, as_root: bool = False
) -> tuple[int, str]:
    """Runs a command that must end soon, and returns its exit code and its output.

    Args:
        root: its working directory.
        environment: all of its environment variables.
        as_root: whether it may bypass file permissions if we are root, for instance to reach the tests' server.
    """
    is_limited = os.geteuid() == 0 and not as_root
    if is_limited and sys.platform != "linux":
        pytest.skip("root passes over the permissions of files, and only Linux can take that from a process")
    done = subprocess.run(
        command,
        cwd=root,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=_drop_rights if is_limited else None,
    )
    return done.returncode, done.stdout


def call_as_nobody(function: Callable[[], object]) -> str:
    """Returns the result or error of `function` as the user nobody, as text; skips the test if we are not root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # The other user may not be able to read our modules, so everything must be imported by now.
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
            os.write(write, str(function()).encode())
        except BaseException as error:
            os.write(write, str(error).encode())
        finally:
            # Without this, the child would go on with the other tests.
            os._exit(0)
    os.close(write)
    with open(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def _drop_rights() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for right in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        if libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot drop root's right to pass over the permissions of files")
