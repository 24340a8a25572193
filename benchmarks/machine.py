"""The machine that a run is made on: who runs on which core, and what a process used of it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]


class CannotRun(Exception):
    """Something that the benchmark needs is missing; the text is one sentence that says what."""


@dataclass(frozen=True)
class Cores:
    """The two cores of a run.

    Attributes:
        subject: the one that has what is measured, and nothing else.
        rest: the one for the callers, the provider, PostgreSQL and the benchmark itself.
        both: the two of them.
    """

    subject: int
    rest: int

    @property
    def both(self) -> tuple[int, int]:
        return self.subject, self.rest


def choose_cores() -> Cores:
    """Returns two cores that this process may use.

    Raises:
        CannotRun: the machine is no Linux, or has one core.
    """
    if sys.platform != "linux":
        raise CannotRun("The benchmark pins processes to cores and reads /proc, which only Linux has.")
    if shutil.which("taskset") is None:
        raise CannotRun("The program taskset is missing; on Debian and Ubuntu: apt-get install util-linux.")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotRun("The benchmark needs two cores: one for what is measured, one for the load.")
    return Cores(cores[0], cores[1])


def pinned(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    """Returns `command` so that it runs on these cores alone."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def busy_s(core: int) -> float:
    """Returns how many seconds a core has worked since the machine started, for whomever."""
    times = psutil.cpu_times(percpu=True)[core]
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


@dataclass(frozen=True)
class Used:
    """What a group of processes has used so far: CPU time in seconds, resident memory in bytes."""

    cpu_s: float
    memory_bytes: int


def look_at(pids: list[int]) -> Used:
    """Returns what these processes have used, those that are gone left out."""
    cpu_s, memory = 0.0, 0
    for pid in pids:
        try:
            process = psutil.Process(pid)
            times = process.cpu_times()
            cpu_s += times.user + times.system
            memory += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return Used(cpu_s, memory)


def family(pid: int) -> list[int]:
    """Returns a process and all below it."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def describe_machine() -> str:
    """Returns the machine in one line: processor, cores, memory, kernel, Python."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory_gb = psutil.virtual_memory().total / 2**30
    return (
        f"{cpu[1].strip() if cpu else platform.machine()}, {os.cpu_count()} cores, {memory_gb:.0f} GB, "
        f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    )
