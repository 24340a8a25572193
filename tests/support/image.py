"""Reads the Dockerfile and .dockerignore as docker does, as far as the project uses them, without docker."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Image:
    """The image that the last stage of a Dockerfile makes.

    Attributes:
        steps: its instructions, as (name, arguments).
        files: the files of the project that it copies, as paths below the project.
        environment: the variables of ENV, without PATH.
        command: the command of CMD.
        health_command: the command of HEALTHCHECK.
    """

    root: Path
    steps: list[tuple[str, str]]
    files: list[str]
    environment: dict[str, str]
    command: list[str]
    health_command: list[str]

    def copy_to(self, place: Path) -> None:
        """Copies the files to a directory, which it makes."""
        for name in self.files:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / name, place / name)


def read_image(root: Path) -> Image:
    """Returns the image that `docker build` would make from the project in `root`."""
    lines = [line for line in (root / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    steps = [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]
    last = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    steps = steps[last:]
    named = dict(steps)
    assert ("COPY", ". .") in steps
    environment = dict(re.findall(r"(\w+)=(\S+)", named["ENV"]))
    del environment["PATH"]
    return Image(
        root=root,
        steps=steps,
        files=_select_files(root),
        environment=environment,
        command=json.loads(named["CMD"]),
        health_command=json.loads(named["HEALTHCHECK"].partition("CMD ")[2]),
    )


def _select_files(root: Path) -> list[str]:
    """Returns the files that .dockerignore keeps: the last line that matches a path, or a parent of it, counts."""
    lines = [line.strip() for line in (root / ".dockerignore").read_text().splitlines()]
    rules = [(line.lstrip("!").strip("/"), line.startswith("!")) for line in lines if line and not line.startswith("#")]
    found = []
    # Skips large directories that no clone has.
    tops = [path for path in root.iterdir() if path.name not in {".git", ".venv", "var", "node_modules"}]
    for path in [each for top in tops for each in (top.rglob("*") if top.is_dir() else [top])]:
        name = str(path.relative_to(root))
        if path.is_file() and _is_kept(name, rules):
            found.append(name)
    return sorted(found)


def _is_kept(name: str, rules: list[tuple[str, bool]]) -> bool:
    parts = name.split("/")
    above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    kept = True
    for pattern, keeps in rules:
        if any(_matches(each, pattern) for each in above):
            kept = keeps
    return kept


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(name.rpartition("/")[2], pattern[3:])
    return "/" not in name and fnmatch.fnmatchcase(name, pattern) if pattern == "*" else name == pattern
