"""Compiles gateway_speedups.c into the environment of the running Python, or into the named directory.

`make speedups` calls it. It needs a C compiler and the headers of that Python, but no package: setuptools would be one
that nothing pins.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCE = Path(__file__).parent / "gateway_speedups.c"


def build(directory: Path) -> Path:
    """Compiles the module into `directory` and returns its file.

    Raises:
        SystemExit: it cannot be compiled or loaded here; the message names the missing part.
    """
    include = Path(sysconfig.get_path("include"))
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or sys.implementation.name != "cpython":
        sys.exit("The compiled path for events needs Linux and CPython. The gateway does the same without it.")
    if compiler is None or not (include / "Python.h").exists():
        sys.exit(
            f"A C compiler or {include}/Python.h is missing; on Debian and Ubuntu: apt-get install gcc libc6-dev"
            " python3-dev. The gateway does the same without it."
        )
    name = SOURCE.stem + sysconfig.get_config_var("EXT_SUFFIX")
    # Renamed at the end, so that a running gateway keeps the file that it has loaded.
    made = directory / f".{name}.{os.getpid()}"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror=implicit", "-fPIC", "-shared", f"-I{include}"]
    # app/speedups.py recognises a module of an earlier source by this digest.
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    subprocess.run([compiler, *flags, f'-DSOURCE_DIGEST="{digest}"', "-o", made, SOURCE], check=True)
    return made.replace(directory / name)


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else sysconfig.get_path("platlib"))
    sys.stdout.write(f"The compiled path for events is in {build(place)}; a gateway uses it from its next start.\n")
